"""Trackers beside `metrics.jsonl`: tensorboard, wandb, trackio and mlflow, each through its own library.

A tracker is told of metrics on a thread of its own, so that one which is slow or gone costs the run nothing: what it
could not take is counted and said, and stands in `metrics.jsonl` in any case.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from posttrain.config.training import TrainingConfig
from posttrain.engine.runtime import random_state, set_random_state
from posttrain.errors import ConfigError, TrainingError

FILE = "trackers.json"  # under which name each tracker knows the run, so that a resumed run goes on there
WAITING = 10_000  # entries that a slow tracker may be behind before the next ones are left out
PATIENCE_S = 60.0  # that the end of a run waits for trackers to take what is still on its way


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run when it starts."""

    name: str
    project: str
    output_dir: Path
    settings: Mapping[str, Any]  # plain values
    config: TrainingConfig
    known_as: str | None  # what `start` gave for the run that this one goes on; None for a new one
    resumed_at: int | None  # the step of the checkpoint


class Tracker(Protocol):
    """One library. Calls come from one thread at a time, but not all from the same."""

    def start(self, run: TrackedRun) -> str:
        """What the tracker knows the run by."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def finish(self, succeeded: bool) -> None: ...


class TensorBoard:
    """Event files, through torch."""

    def start(self, run: TrackedRun) -> str:
        from torch.utils.tensorboard import SummaryWriter

        place = Path(run.config.logging_dir or run.output_dir / "runs")
        # what an earlier part of the run wrote after the checkpoint is hidden
        self._writer = SummaryWriter(str(place), purge_step=None if run.resumed_at is None else run.resumed_at + 1)
        self._writer.add_text("settings", f"```\n{json.dumps(run.settings, indent=1)}\n```", run.resumed_at or 0)
        return str(place)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, succeeded: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """wandb; WANDB_MODE=offline and its other variables are heeded."""

    def start(self, run: TrackedRun) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.project),
            name=run.name,
            dir=str(run.output_dir),
            config=dict(run.settings),
            id=run.known_as,
            resume=None if run.known_as is None else "allow",
            settings=wandb.Settings(console="off"),  # what is printed stays with the run
            reinit="create_new",  # the run of another trainer in this process is another run
        )
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step")
        return str(self._run.id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "train/global_step": step})

    def finish(self, succeeded: bool) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)


class Trackio:
    """trackio: a database on this machine, or a space of the hub."""

    def start(self, run: TrackedRun) -> str:
        import trackio

        name = run.known_as or run.name
        self._run = trackio.init(
            project=run.project,
            name=name,
            space_id=run.config.trackio_space_id,
            bucket_id=run.config.trackio_bucket_id,
            private=run.config.hub_private_repo,
            config=dict(run.settings),
            resume="never" if run.known_as is None else "allow",
            embed=False,
        )
        return str(self._run.name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, succeeded: bool) -> None:
        self._run.finish()


class MLflow:
    """mlflow, through its client; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are heeded."""

    def start(self, run: TrackedRun) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if run.known_as is not None:
            self._id = run.known_as
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
        found = self._client.get_experiment_by_name(project)
        place = self._client.create_experiment(project) if found is None else found.experiment_id
        self._id = self._client.create_run(place, run_name=run.name).info.run_id
        params = [Param(name, str(value)[:500]) for name, value in run.settings.items()]
        for first in range(0, len(params), 100):  # as many as one request may have
            self._client.log_batch(self._id, params=params[first : first + 100])
        return self._id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def finish(self, succeeded: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if succeeded else "FAILED")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tracker, and the package that has to be installed for it."""

    make: Callable[[], Tracker]
    package: str


TRACKERS: Mapping[str, Entry] = {
    "tensorboard": Entry(make=TensorBoard, package="tensorboard"),
    "wandb": Entry(make=WeightsAndBiases, package="wandb"),
    "trackio": Entry(make=Trackio, package="trackio"),
    "mlflow": Entry(make=MLflow, package="mlflow"),
}


def chosen(report_to: str | Sequence[str]) -> list[str]:
    """The trackers that `report_to` names. Raises ConfigError for one whose package is not there."""
    if report_to == "none":
        return []
    if report_to == "all":
        names = [name for name, entry in TRACKERS.items() if _installed(entry.package)]
        if not names:
            packages = ", ".join(entry.package for entry in TRACKERS.values())
            raise ConfigError(f"report_to='all': no tracker is installed. Install one of {packages}, or write none")
        return names
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    for name in names:
        if not _installed(package := TRACKERS[name].package):
            raise ConfigError(f"report_to={name!r} needs the package {package}: pip install {package}, or write none")
    return names


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Trackers:
    """All trackers of a run, each on a thread of its own; closed when the `with` block ends.

    Only the run's first process is `active`: the others have none.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device, say: Callable[[str], None], *, active: bool = True
    ) -> None:
        self._config, self._device, self._say = config, device, say
        self._names = chosen(config.report_to) if active else []
        self._writers: list[_Writer] = []

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.finish(succeeded=kind is None)

    def start(self, *, resumed_at: int | None) -> None:
        """Opens the run in every tracker. Raises TrainingError for one that cannot: nothing has been trained yet."""
        output_dir = Path(self._config.output_dir)
        file = output_dir / FILE
        known = json.loads(file.read_text()) if resumed_at is not None and file.is_file() else {}
        before = random_state(self._device)  # a library that draws a name for the run must not change the run
        for name in self._names:
            tracker = TRACKERS[name].make()
            run = TrackedRun(
                name=self._config.run_name or output_dir.resolve().name,
                project=self._config.project,
                output_dir=output_dir,
                settings=self._config.to_dict(),
                config=self._config,
                known_as=known.get(name),
                resumed_at=resumed_at,
            )
            try:
                known[name] = tracker.start(run)
            except Exception as error:
                raise TrainingError(
                    f"report_to={name!r}: the run cannot be opened there ({type(error).__name__}: {error}). Mend that, "
                    "or leave it out of report_to; metrics.jsonl is written in any case"
                ) from error
            self._writers.append(_Writer(name, tracker, self._say))
        if self._names:
            set_random_state(before, self._device)
            file.write_text(json.dumps(known, indent=1) + "\n")

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Hands the numbers among the metrics to every tracker, at once and without waiting."""
        numbers = tracked(metrics)
        for writer in self._writers if numbers else ():
            writer.put(numbers, step)

    def finish(self, *, succeeded: bool) -> None:
        """Closes the run in every tracker; what does not end in time is left behind."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close(succeeded)
        for writer in writers:
            writer.wait()


class _Writer:
    """A tracker's thread: takes what is put into its queue, and counts what fails."""

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._name, self._tracker, self._say = name, tracker, say
        self._queue: queue.Queue[tuple[Mapping[str, float], int] | bool] = queue.Queue(WAITING)
        self._lost = self._taken = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        try:
            self._queue.put_nowait((metrics, step))
        except queue.Full:
            self._miss("it is too far behind")

    def close(self, succeeded: bool) -> None:
        try:
            self._queue.put_nowait(succeeded)
        except queue.Full:
            self._miss("it is too far behind")

    def wait(self) -> None:
        """Until the tracker has taken everything, or patience ends; says what it did not take."""
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            left = self._queue.qsize()
            self._say(
                f"{self._name} is still writing after {PATIENCE_S:g} seconds, {left} entries behind: not waited for."
            )
        if self._lost:
            total = self._lost + self._taken
            self._say(f"{self._name} did not take {self._lost} of {total} entries; they are all in metrics.jsonl.")

    def _work(self) -> None:
        while True:
            entry = self._queue.get()
            try:
                if isinstance(entry, bool):
                    self._tracker.finish(entry)
                    return
                self._tracker.log(*entry)
                self._taken += 1
            except Exception as error:  # whatever a library raises is not worth a run
                self._miss(f"{type(error).__name__}: {error}")
                if isinstance(entry, bool):
                    return

    def _miss(self, why: str) -> None:
        self._lost += 1
        if self._lost == 1:
            self._say(f"{self._name} does not take what it is told ({why}). The run goes on without it.")


def tracked(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a run's metrics under the names that transformers gives them: train/loss, eval/loss."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if name == "step" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value):
            found[f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"] = float(value)
    return found
