"""A few steps of a stage's own trainer, on a few of its rows, in a directory that is thrown away."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.config.checkpoints import CheckpointsConfig
from posttrain.config.data_fields import DataFields
from posttrain.config.reporting import ReportingConfig
from posttrain.engine.throughput import product_rate
from posttrain.recipes.estimating.schedule import online
from posttrain.recipes.estimating.stopwatch import Stopwatch, TrialOver, peaks, size_of, skipped
from posttrain.recipes.methods import StageRun, run_method
from posttrain.sources.offline import epoch_order
from posttrain.trainers.assembly import tokens_per_pass

Tell = Callable[..., None]
SPEED_SHARE = 0.4  # of the speed of bare products that a training step reaches at least
STEPS, FEWEST = 6, 3  # that should, and that must fit into the time
OTHERS = (16, 256)  # steps of other rows each, before they come again: lengths not seen before cost time and memory
PASSES = 4  # of a step that is tried at most; a larger step is more of the same
SAVED_BYTES = 2**30  # what is larger is not written for a trial
LEARNING = 6  # floating-point operations a parameter and token: forward, and both products of the backward


class OutOfTime(BaseException):
    """The time to try is over in the middle of a step: as TrialOver."""


class Trial:
    """A few steps of the stage's own trainer on a few of its rows."""

    def __init__(self, *, task: Any, command: Any, plan: Any, train: Any, evaluation: Any, directory: Path) -> None:
        self.task, self.command, self.plan = task, command, plan
        self.train, self.evaluation, self.directory = train, evaluation, directory

    def run(self, tell: Tell, composed: Any, device: Any) -> None:
        """Tries; where not even two steps fit into the time, once more with as little as there is."""
        tokens = self._affordable(composed, device)
        batch = self._batch(tokens, composed, device)
        self._others = tokens
        for attempt, size in enumerate(dict.fromkeys((batch, 1))):
            if self._attempt(tell, size, composed, attempt):
                return
        tell("slow")

    def _affordable(self, composed: Any, device: Any) -> float:
        """Tokens that may be trained on in the time, roughly."""
        dtypes = [torch.float32] if self.command.bf16 is False else [torch.float32, torch.bfloat16]
        rate = max(product_rate(device, dtype, seconds=0.05) or 1e9 for dtype in dtypes)
        return SPEED_SHARE * rate * float(self.task["seconds"]) / (LEARNING * float(composed.parameters))

    def _batch(self, tokens: float, composed: Any, device: Any) -> int:
        """Units of a step that is tried: of a whole pass where that can be, as an empty one has its price too."""
        if online(self.command):
            return self.plan.units  # how fast a model writes depends on how many answers it writes at once
        room = self.command.max_tokens_per_pass or tokens_per_pass(device, composed.vocabulary)
        step = max(min(tokens / STEPS, PASSES * room), min(tokens / FEWEST, room))
        return max(1, min(self.plan.units, round(step / self.train.mean)))

    def _attempt(self, tell: Tell, batch: int, composed: Any, attempt: int) -> bool:
        """Whether a step was timed."""
        home = self.directory / f"run-{attempt}"
        sampled = online(self.command)
        fewest, most = OTHERS
        chosen = self._rows(batch, steps=max(fewest, min(most, round(self._others / batch / self.train.mean))))
        judged = self._judged(batch)
        fields = self._fields(batch, chosen, judged, home)
        cycle = self.plan.cycle if batch == self.plan.units else 1
        steps: list[int] = []

        def noting(event: str, **values: Any) -> None:
            if event == "step":
                steps.append(values["number"])
            tell(event, **values)

        free = shutil.disk_usage(home.parent).free
        saves, ends = (4 * size < free and size < SAVED_BYTES for size in (composed.checkpoint, composed.model_file))
        watch = Stopwatch(
            noting, cycle=cycle, seconds=self.task["seconds"], evaluates=judged is not None, saves=saves, ends=ends
        )
        tell(
            "trial", batch=batch, cycle=cycle, whole=batch == self.plan.units, sampled=sampled, rows=len(chosen[0]),
            tokens=chosen[1],
            judged_units=0 if judged is None else len(judged[0]), judged_tokens=0 if judged is None else judged[1],
            skipped=skipped(cycle),
        )  # fmt: skip
        start = time.perf_counter()
        signal.signal(signal.SIGALRM, _ring)
        signal.setitimer(signal.ITIMER_REAL, 1.5 * self.task["seconds"] + 20.0)
        try:
            run_method(self.task["method"], StageRun(fields=fields, directory=home, say=print, callbacks=[watch]))
            tell("saved", bytes=size_of(home / "model"), reference=(home / "reference").is_dir(), **peaks())
        except (OutOfTime, TrialOver):
            tell("stopped", seconds=time.perf_counter() - start, reference=(home / "reference").is_dir(), **peaks())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            watch.detach()
        said = (self.directory / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        if layout := next((line for line in said if " layout, " in line), ""):
            tell("said", layout=layout.partition(" layout, ")[0])
        return bool(steps)

    def _rows(self, batch: int, *, steps: int) -> tuple[list[int], int]:
        """Rows for so many steps and the tokens of their units: steps of the run's own order, the largest first.

        So a peak is reached at once, and a time is that of what the run will be given.
        """
        units, config = self.train.parts, self.command
        batch *= max(1, round(len(units) / len(self.train.units)))  # rows of so many packs
        strategy = "sequential" if config.train_sampling_strategy == "sequential" else "random"
        order = epoch_order(len(units), strategy, config.seed if config.data_seed is None else config.data_seed, 0)
        batches = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)] or [order]
        batches.sort(key=lambda numbers: -sum(units[i].tokens for i in numbers))
        rest = batches[1:]
        random.Random(0).shuffle(rest)
        chosen = [i for numbers in [batches[0], *rest[: steps - 1]] for i in numbers]
        return with_all_of(units, chosen)

    def _judged(self, batch: int) -> tuple[list[int], int, Any] | None:
        """Rows to evaluate on, their tokens, and whose they are; of the training data where there are no others."""
        of = self.evaluation
        if of is None and not online(self.command):
            of = self.train
        if of is None:
            return None
        order = list(range(len(of.parts)))
        random.Random(1).shuffle(order)
        chosen = order[: max(batch, 2) * max(1, round(len(order) / len(of.units)))]
        return *with_all_of(of.parts, chosen), of

    def _fields(self, batch: int, chosen: Any, judged: Any, home: Path) -> Any:
        """The stage's fields for the trial: its rows, nothing shown, sent or kept."""
        home.mkdir(parents=True)
        most = max(self.plan.steps, 100)
        changes: dict[str, Any] = {
            "model": self.command.model,
            "output_dir": str(home),
            "train_dataset": write_rows([self.train.rows[i] for i in chosen[0]], home.parent / f"{home.name}-rows"),
            "max_steps": most,
            **QUIET,
        }
        if judged is not None:
            rows = [judged[2].rows[i] for i in judged[0]]
            changes |= {
                "eval_dataset": write_rows(rows, home.parent / f"{home.name}-judged"),
                "eval_strategy": "steps",
                "eval_steps": 2 * most,  # when the stopwatch asks, and at no other time
            }
        if self.command.follows_evaluation:
            changes |= {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": None}
        if batch != self.plan.units:
            changes |= self._smaller(batch)
        known = type(self.command).model_fields
        given = {name: getattr(self.command, name) for name in self.command.model_fields_set - _of_the_run()}
        given |= {name: value for name, value in changes.items() if name in known}
        return type(self.command).from_values(given)

    def _smaller(self, batch: int) -> dict[str, Any]:
        answers = batch * getattr(self.command, "num_generations", 1)
        return {
            "per_device_train_batch_size": answers,
            "gradient_accumulation_steps": 1,
            "steps_per_generation": None,
            "generation_batch_size": None,
            "num_mini_batches": 1,
        }


QUIET: dict[str, Any] = {
    "save_strategy": "no",
    "gate": None,
    "drift_steps": None,
    "drift_text": None,
    "do_eval": False,
    "log_completions": False,
    "num_completions_to_print": None,
    "stop_on_alarm": False,
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "shuffle_dataset": False,
    "dataset_num_proc": None,
    "dataloader_drop_last": False,
}


def _of_the_run() -> set[str]:
    """The fields of where rows come from, what is kept and who is told, which a trial leaves at their defaults."""
    return {name for part in (CheckpointsConfig, ReportingConfig, DataFields) for name in part.model_fields}


def with_all_of(units: Sequence[Any], chosen: Sequence[int]) -> tuple[list[int], int]:
    """The rows of the chosen units, and the tokens of all units made of these rows: a pair may give two."""
    rows = dict.fromkeys(row for i in chosen for row in units[i].rows)
    return list(rows), sum(unit.tokens for unit in units if rows.keys() >= set(unit.rows))


def write_rows(rows: list[Any], place: Path) -> str:
    """The rows as a file that a trainer reads."""
    try:
        text = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    except TypeError:  # dates, images: what a dataset can hold and JSON cannot
        from datasets import Dataset

        Dataset.from_list([dict(row) for row in rows]).save_to_disk(str(place))
        return str(place)
    file = place.with_suffix(".jsonl")
    file.write_text(text, encoding="utf-8")
    return str(file)


def _ring(*_: Any) -> None:
    raise OutOfTime
