"""The gate of a run: the start and every checkpoint are measured, and one checkpoint is promoted, or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from posttrain.config.gate import GateConfig
from posttrain.engine.checkpoint import checkpoints
from posttrain.errors import ConfigError, nearest
from posttrain.evaluation import AnyTask, Result, Task, evaluate, write_scores
from posttrain.evaluation.comparison import read_evaluation
from posttrain.evaluation.definitions import load_tasks
from posttrain.evaluation.drift import FILE as DRIFT
from posttrain.evaluation.drift import DriftProbe, drift_metrics, spread, write_drift
from posttrain.evaluation.gate import Checkpoint, Decision, decide, too_small_sets
from posttrain.evaluation.results import SCORES, question_grades
from posttrain.models.divergence import Moment
from posttrain.models.reference import StartingWeights
from posttrain.sampling.broken_text import text_metrics
from posttrain.trainers.assembly import Assembled

GATE = "gate.json"
FOLDER = "evaluation"
DRIFT_PROMPTS = 64


class Gatekeeper:
    """Measures a run's model at the start and at checkpoints, and decides in the end.

    What it measured lies in `output_dir/evaluation/step-N`, one directory a checkpoint, and is not measured again when
    a run is resumed. Only the first process measures; the others wait at the next exchange.
    """

    def __init__(
        self, gate: GateConfig, tasks: Sequence[AnyTask], assembled: Assembled, tokenizer: Any, start: StartingWeights
    ) -> None:
        self._gate, self._tasks = gate, tasks
        self._assembled, self._tokenizer = assembled, tokenizer
        self._output_dir = Path(assembled.config.output_dir)
        self._start = Moment(learner=assembled.learner, during=start)
        asked = [task for task in tasks if isinstance(task, Task) and task.chat_template]
        prompts = [task.messages(row) for task in asked for row in task.rows]
        self._probe = None
        if prompts:
            self._probe = DriftProbe(
                self._start, tokenizer, prompts=spread(prompts, DRIFT_PROMPTS), seed=assembled.config.seed,
                max_new_tokens=min(256, max(task.max_new_tokens for task in asked)),
                max_tokens=assembled.budget.max_tokens, autocast=assembled.runtime.autocast,
            )  # fmt: skip

    def warnings(self) -> list[str]:
        """What the tasks are too small to show."""
        sizes = {task.name: len(task.rows) for task in self._tasks if hasattr(task, "rows")}
        return too_small_sets(self._gate, sizes)

    def measure(self, step: int) -> dict[str, float]:
        """The metrics of the model as it is, just saved as this step's checkpoint; step 0 is the start of the run.

        Nothing where a run that was resumed had measured it before.
        """
        folder = self._folder(step)
        if (folder / SCORES).is_file():
            return {}
        metrics: dict[str, float] = {}
        with self._start.during() if step == 0 else nullcontext():
            results = self._evaluate(folder, step)
            if self._probe is not None and step > 0:
                drift = self._probe(Moment(learner=self._assembled.learner))
                write_drift(folder / DRIFT, drift)
                metrics |= drift_metrics(drift)
        write_scores(folder, results)  # the last, and the sign that all of it is there
        retained = {item.task for item in self._gate.retention}
        for result in results:
            name = f"{'retention' if result.name in retained else 'target'}/{result.name}"
            metrics |= {name: result.correct, f"{name}/n": float(result.n)}
        answers = [record for result in results for record in result.records if record.finish_reason]
        if answers:
            metrics |= text_metrics([r.completion for r in answers], [r.finish_reason for r in answers])
        return metrics

    def _evaluate(self, folder: Path, step: int) -> list[Result]:
        model, seed = self._assembled.learner.release(), self._assembled.config.seed
        settings: dict[str, Any] = {"seed": seed, "made_with": {"step": step}}
        with self._assembled.runtime.autocast():
            return [
                evaluate(model, self._tokenizer, task, records_path=folder / f"{task.name}.jsonl", **settings)
                for task in self._tasks
            ]

    def decide(self) -> Decision:
        """The decision over the checkpoints that were measured and are still there, also written to `gate.json`."""
        paths = {int(path.name.split("-")[1]): path for path in checkpoints(self._output_dir)}
        steps = [step for step in paths if (self._folder(step) / SCORES).is_file()]
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
            headline = next(iter(records[0][task][0].grades))
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


def gate_tasks(gate: GateConfig, named: Mapping[str, Callable[[], AnyTask]]) -> list[AnyTask]:
    """The tasks that the gate names. Raises ConfigError for one that no definition and no name stands for."""
    given = gate.tasks if gate.tasks is not None else gate.task_names()
    tasks = load_tasks([given] if isinstance(given, str) else given, named, home=gate.home)
    asked = gate.task_names()
    chosen = [task for task in tasks if task.name in asked]
    if missing := [name for name in asked if name not in [task.name for task in chosen]]:
        known = [task.name for task in tasks]
        raise ConfigError(f"the gate names {missing[0]!r}{nearest(missing[0], known)} (its tasks: {', '.join(known)})")
    return chosen
