"""The gate of a run: the start and every checkpoint are measured, and one checkpoint is promoted, or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from posttrain.config.gate import GateConfig
from posttrain.engine.checkpoint import checkpoints
from posttrain.errors import ConfigError, nearest
from posttrain.evaluation import AnyTask, PerplexityTask, Result, evaluate, write_scores
from posttrain.evaluation.comparison import read_evaluation
from posttrain.evaluation.definitions import load_tasks
from posttrain.evaluation.drift import FILE as DRIFT
from posttrain.evaluation.drift import DriftProbe, drift_metrics, drift_prompts, write_drift
from posttrain.evaluation.gate import Checkpoint, Decision, decide, too_small_sets
from posttrain.evaluation.results import graders_of, question_grades
from posttrain.evaluation.run import task_settings
from posttrain.models.divergence import Moment
from posttrain.models.reference import StartingWeights, content_hash
from posttrain.sampling.broken_text import text_metrics
from posttrain.trainers.assembly import Assembled

GATE = "gate.json"
FOLDER = "evaluation"
MEASURED = "measured.json"  # of what, and the metrics; written last


class Gatekeeper:
    """Measures a run's model at the start and at checkpoints, and decides in the end.

    What it measured lies in `output_dir/evaluation/step-N`, one directory a checkpoint, and is read instead of measured
    again as long as weights and questions are the same. Only the first process measures; the others wait.
    """

    def __init__(
        self, gate: GateConfig, tasks: Sequence[AnyTask], assembled: Assembled, tokenizer: Any, start: StartingWeights
    ) -> None:
        self._gate, self._tasks = gate, tasks
        self._assembled, self._tokenizer = assembled, tokenizer
        self._output_dir = Path(assembled.config.output_dir)
        self._start = Moment(learner=assembled.learner, during=start)
        prompts, longest = drift_prompts(tasks)
        self._probe = None
        if prompts:
            self._probe = DriftProbe(
                self._start, tokenizer, prompts=prompts, max_new_tokens=longest, seed=assembled.config.seed,
                max_tokens=assembled.budget.max_tokens, autocast=assembled.runtime.autocast,
            )  # fmt: skip
        elif gate.max_kl is not None:
            raise ConfigError("the gate's max_kl is measured on answers, and none of its tasks is answered in a chat")

    def warnings(self) -> list[str]:
        """What the tasks are too small to show."""
        sizes = {task.name: len(task.rows) for task in self._tasks if hasattr(task, "rows")}
        return too_small_sets(self._gate, sizes)

    def measure(self, step: int) -> dict[str, float]:
        """The metrics of the model as it is, to be saved as this step's checkpoint; step 0 is the start of the run."""
        folder = self._folder(step)
        with self._start.during() if step == 0 else nullcontext():
            made_of = self._made_of()
            stored = _stored(folder)
            if stored.get("made_of") == made_of:
                return dict(stored["metrics"])
            shutil.rmtree(folder, ignore_errors=True)  # of other weights or questions, or half of it
            results = self._evaluate(folder)
            metrics = self._metrics(results)
            if self._probe is not None and step > 0:
                drift = self._probe(Moment(learner=self._assembled.learner))
                write_drift(folder / DRIFT, drift)
                metrics |= drift_metrics(drift)
        write_scores(folder, results)
        (folder / MEASURED).write_text(json.dumps({"made_of": made_of, "metrics": metrics}, indent=1) + "\n")
        return metrics

    def _made_of(self) -> dict[str, Any]:
        """What decides the measurements."""
        seed = self._assembled.config.seed
        tasks = {task.name: task_settings(task, seed) for task in self._tasks}
        return {"weights": content_hash(self._assembled.learner.model, [], ""), "tasks": tasks}

    def _metrics(self, results: Sequence[Result]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        retained = {item.task for item in self._gate.retention}
        for result in results:
            name = f"{'retention' if result.name in retained else 'target'}/{result.name}"
            metrics |= {name: result.correct, f"{name}/n": float(result.n)}
        answers = [record for result in results for record in result.records if record.finish_reason]
        if answers:
            metrics |= text_metrics([r.completion for r in answers], [r.finish_reason for r in answers])
        return metrics

    def _evaluate(self, folder: Path) -> list[Result]:
        model, seed = self._assembled.learner.release(), self._assembled.config.seed
        with self._assembled.runtime.autocast():
            return [
                evaluate(model, self._tokenizer, task, seed=seed, records_path=folder / f"{task.name}.jsonl")
                for task in self._tasks
            ]

    def decide(self) -> Decision:
        """The decision over the checkpoints that were measured and are still there, also written to `gate.json`."""
        self.measure(0)  # read, unless the gate was added when the run was resumed
        paths = {int(path.name.split("-")[1]): path for path in checkpoints(self._output_dir)}
        steps = [step for step in paths if _stored(self._folder(step))]
        grades = self._grades([0, *steps])
        decision = decide(
            grades[0],
            [Checkpoint(step=n, path=str(paths[n]), grades=grades[n], kl=self._kl(n)) for n in steps],
            self._gate,
        )
        (self._output_dir / GATE).write_text(json.dumps(decision.as_dict(), indent=2) + "\n")
        return decision

    def _grades(self, steps: Sequence[int]) -> dict[int, dict[str, list[float]]]:
        """For each step the grades of each task of the gate, on the questions that were graded at all of them."""
        records = {step: read_evaluation(self._folder(step)) for step in steps}
        grades: dict[int, dict[str, list[float]]] = {step: {} for step in steps}
        for task in self._gate.task_names():
            headline = next(iter(graders_of(records[0][task])), "")
            found = {step: question_grades(records[step][task], headline) for step in steps}
            rows = sorted(set.intersection(*(set(of_step) for of_step in found.values())))
            for step in steps:
                grades[step][task] = [found[step][row] for row in rows]
        return grades

    def _kl(self, step: int) -> float | None:
        file = self._folder(step) / DRIFT
        if not file.is_file():
            return None
        return float(json.loads(file.read_text())["prompts"]["kl_reverse"]["estimate"])

    def _folder(self, step: int) -> Path:
        return self._output_dir / FOLDER / f"step-{step}"


def _stored(folder: Path) -> dict[str, Any]:
    """What was measured there to the end; nothing where it was not."""
    file = folder / MEASURED
    return json.loads(file.read_text()) if file.is_file() else {}


def gate_tasks(gate: GateConfig, named: Mapping[str, Callable[[], AnyTask]]) -> list[AnyTask]:
    """The tasks that the gate names. Raises ConfigError for one that no definition and no name stands for."""
    given = gate.tasks if gate.tasks is not None else gate.task_names()
    tasks = load_tasks([given] if isinstance(given, str) else given, named, home=gate.home)
    asked = gate.task_names()
    chosen = [task for task in tasks if task.name in asked]
    if unfit := [task.name for task in chosen if isinstance(task, PerplexityTask)]:
        raise ConfigError(
            f"the gate names {unfit[0]!r}, a perplexity: it compares grades from 0 to 1, question by question"
        )
    if missing := [name for name in asked if name not in [task.name for task in chosen]]:
        known = [task.name for task in tasks]
        raise ConfigError(f"the gate names {missing[0]!r}{nearest(missing[0], known)} (its tasks: {', '.join(known)})")
    return chosen
