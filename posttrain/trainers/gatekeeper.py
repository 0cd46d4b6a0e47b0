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
from posttrain.evaluation.drift import read_kl
from posttrain.evaluation.gate import Checkpoint, Decision, decide, too_small_sets
from posttrain.evaluation.results import graders_of, question_grades
from posttrain.evaluation.run import task_settings
from posttrain.models.reference import StartingWeights, content_hash
from posttrain.trainers.assembly import Assembled
from posttrain.trainers.drifting import DriftWatch, step_folder

GATE = "gate.json"
MEASURED = "measured.json"  # of what, and the metrics; written last


class Gatekeeper:
    """Measures a run's model at the start and at checkpoints, and decides in the end.

    What it measured lies in `output_dir/evaluation/step-N`, one directory a checkpoint, and is read instead of measured
    again as long as weights and questions are the same. Only the first process measures; the others wait.
    """

    def __init__(
        self,
        gate: GateConfig,
        tasks: Sequence[AnyTask],
        assembled: Assembled,
        tokenizer: Any,
        start: StartingWeights,
        drift: DriftWatch | None,
    ) -> None:
        self._gate, self._tasks = gate, tasks
        self._assembled, self._tokenizer = assembled, tokenizer
        self._output_dir = Path(assembled.config.output_dir)
        self._start, self._drift = start, drift
        self.notes: list[str] = []  # what the decision could not take into account
        if drift is None and gate.max_kl is not None:
            raise ConfigError(
                "the gate's max_kl is measured on answers or on text: none of its tasks is answered in a chat, and it "
                "names no neutral text"
            )

    def warnings(self) -> list[str]:
        """What the tasks are too small to show."""
        sizes = {task.name: len(task.rows) for task in self._tasks if hasattr(task, "rows")}
        return too_small_sets(self._gate, sizes)

    def measure(self, step: int) -> dict[str, float]:
        """The metrics of the model as it is, to be saved as this step's checkpoint; step 0 is the start of the run."""
        folder = self._folder(step)
        with self._start() if step == 0 else nullcontext():
            made_of = self._made_of()
            stored = _stored(folder)
            if stored.get("made_of") == made_of:
                return dict(stored["metrics"])
            shutil.rmtree(folder, ignore_errors=True)  # of other weights or questions, or half of it
            results = self._evaluate(folder)
            metrics = self._metrics(results)
            if self._drift is not None:
                metrics |= self._drift.measure(step)
        write_scores(folder, results)
        (folder / MEASURED).write_text(json.dumps({"made_of": made_of, "metrics": metrics}, indent=1) + "\n")
        return metrics

    def _made_of(self) -> dict[str, Any]:
        """What decides the measurements."""
        seed = self._assembled.config.seed
        tasks = {task.name: task_settings(task, seed) for task in self._tasks}
        weights = content_hash(self._assembled.learner.model, [], "")
        return {"weights": weights, "tasks": tasks, "drift": None if self._drift is None else self._drift.identity}

    def _metrics(self, results: Sequence[Result]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        retained = {item.task for item in self._gate.retention}
        for result in results:
            name = f"{'retention' if result.name in retained else 'target'}/{result.name}"
            metrics |= {name: result.correct, f"{name}/n": float(result.n)}
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
        asked = _questions(_stored(self._folder(0)))
        steps = [step for step in paths if _questions(_stored(self._folder(step))) == asked]
        if others := sorted(paths.keys() - set(steps)):
            named = ", ".join(map(str, others))
            self.notes.append(f"Not decided on, since what the gate asks was not measured of them: steps {named}.")
        if not steps:
            raise ConfigError(f"no checkpoint in {self._output_dir} was measured on what the gate asks now")
        grades, left_out = self._grades([0, *steps])
        decision = decide(
            grades[0], [self._checkpoint(n, paths[n], grades[n]) for n in steps], self._gate, left_out=left_out
        )
        (self._output_dir / GATE).write_text(json.dumps(decision.as_dict(), indent=2) + "\n")
        return decision

    def _checkpoint(self, step: int, path: Path, grades: Mapping[str, Sequence[float]]) -> Checkpoint:
        file = self._folder(step) / DRIFT
        kl = read_kl(json.loads(file.read_text())) if file.is_file() else None
        drift = {} if kl is None else {"kl": kl.estimate, "kl_high": kl.high}
        return Checkpoint(step=step, path=str(path), grades=grades, **drift)

    def _grades(self, steps: Sequence[int]) -> tuple[dict[int, dict[str, list[float]]], dict[str, int]]:
        """For each step the grades of each task of the gate, on the questions that were graded at all of them.

        And for each task how many questions were graded at some only.
        """
        records = {step: read_evaluation(self._folder(step)) for step in steps}
        grades: dict[int, dict[str, list[float]]] = {step: {} for step in steps}
        left_out: dict[str, int] = {}
        for task in self._gate.task_names():
            headline = next(iter(graders_of(records[0][task])), "")
            found = {step: question_grades(records[step][task], headline) for step in steps}
            rows = sorted(set.intersection(*(set(of_step) for of_step in found.values())))
            left_out[task] = len(set.union(*(set(of_step) for of_step in found.values()))) - len(rows)
            for step in steps:
                grades[step][task] = [found[step][row] for row in rows]
        return grades, left_out

    def _folder(self, step: int) -> Path:
        return step_folder(self._output_dir, step)


def _questions(measured: Mapping[str, Any]) -> Any:
    """What was asked of a model, its weights aside; None where nothing was."""
    made_of = measured.get("made_of")
    return None if made_of is None else {name: value for name, value in made_of.items() if name != "weights"}


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
