"""What a report is about: a run, or a pipeline with its stages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import DataError, nearest
from posttrain.report.evaluations import Evaluation, holds_evaluation
from posttrain.report.files import number, read_json, read_lines, read_object, read_text, read_yaml

_LOG, _CONFIG, _STAGE, _GATE = "metrics.jsonl", "config.yaml", "stage.json", "gate.json"
_COMPARISON = "comparison.json"
_MOVED_ASIDE = re.compile(r"\.old-\d+$")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run directory."""

    name: str
    directory: Path
    method: str | None = None  # "sft", "dpo", ...

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The log, alarms left out."""
        return [line for line in self._log if "alarm" not in line]

    @cached_property
    def alarms(self) -> list[dict[str, Any]]:
        """The alarms of the log, oldest first."""
        return [line for line in self._log if isinstance(line.get("alarm"), str)]

    @cached_property
    def kind(self) -> str:
        """What its log shows it to be: "sft", "dpo", "reward" or "grpo"; it may be another method of that kind."""
        if self.method in ("sft", "dpo", "reward", "grpo"):
            return self.method
        keys = {key for line in self.lines for key in line}
        if "min_reward" in keys:
            return "reward"
        return "grpo" if "reward" in keys else "dpo" if "rewards/margins" in keys else "sft"

    @cached_property
    def finished(self) -> bool:
        """The log ends as that of a run does which was not interrupted."""
        return any("train_runtime" in line for line in self.lines[-3:])

    @cached_property
    def last_step(self) -> int | None:
        """The last step of the log."""
        steps = [step for line in self._log if (step := number(line.get("step"))) is not None]
        return int(steps[-1]) if steps else None

    @cached_property
    def seconds(self) -> float | None:
        """How long it took, where the log says so."""
        times = [number(line.get("train_runtime")) for line in self.lines if "train_runtime" in line]
        return times[-1] if times else number(self.environment.get("seconds"))

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_yaml(self.directory / _CONFIG)

    @cached_property
    def config_text(self) -> str:
        return read_text(self.directory / _CONFIG)

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_object(self.directory / "environment.json")

    @cached_property
    def data(self) -> Any:
        return read_json(self.directory / "data.json")

    @cached_property
    def gate(self) -> dict[str, Any]:
        """The gate's decision, or an empty mapping."""
        return read_gate(self.directory)

    @cached_property
    def samples(self) -> Path | None:
        """The file with the completions of an online run."""
        path = self.directory / "samples.jsonl"
        return path if path.is_file() else None

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The start and the checkpoints that were evaluated, then evaluations of the finished model beside them."""
        found = []
        for directory in _directories(self.directory / "evaluation"):
            match = re.fullmatch(r"step-(\d+)", directory.name)
            if match and holds_evaluation(directory):
                step = int(match[1])
                label = "start" if step == 0 else f"step {step}"
                found.append(Evaluation(label=label, directory=directory, step=step))
        found.sort(key=lambda evaluation: evaluation.step or 0)
        others = [d for d in _directories(self.directory) if d.name != "evaluation" and holds_evaluation(d)]
        return [*found, *(Evaluation(label=d.name, directory=d) for d in others)]

    @cached_property
    def _log(self) -> list[dict[str, Any]]:
        return read_lines(self.directory / _LOG)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a pipeline and what its `stage.json` says."""

    name: str
    directory: Path
    record: dict[str, Any]

    @property
    def method(self) -> str | None:
        method = _mapping(self.record.get("key")).get("method")
        return method if isinstance(method, str) else None

    @property
    def status(self) -> str:
        return "finished" if self.record.get("status") == "finished" else "not finished"

    @property
    def seconds(self) -> float | None:
        return number(self.record.get("time_s")) if self.status == "finished" else None

    @property
    def summary(self) -> dict[str, Any]:
        return _mapping(self.record.get("summary"))

    @property
    def inputs(self) -> dict[str, Any]:
        """The hash of what the stage read, by field."""
        return _mapping(_mapping(self.record.get("key")).get("inputs"))

    @property
    def outputs(self) -> dict[str, Any]:
        return _mapping(self.record.get("outputs"))

    @cached_property
    def training(self) -> Training | None:
        """The run of a stage that trains."""
        if not (self.directory / _LOG).is_file() and not (self.directory / _CONFIG).is_file():
            return None
        return Training(name=self.name, directory=self.directory, method=self.method)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run or a pipeline; or what `posttrain compare` or `posttrain evaluate` wrote."""

    path: Path
    title: str
    kind: Literal["run", "pipeline", "comparison", "evaluation"]
    stages: tuple[Stage, ...]  # of a pipeline, in the order they ran
    trainings: tuple[Training, ...]
    evaluations: tuple[Evaluation, ...]  # what is compared, the earliest first

    @cached_property
    def gate(self) -> dict[str, Any]:
        """The decision that counts: the pipeline's own, or that of the last training that has one."""
        own = _mapping(self.comparison.get("gate")) if self.kind == "comparison" else read_gate(self.path)
        return own or next((training.gate for training in reversed(self.trainings) if training.gate), {})

    @property
    def is_pipeline(self) -> bool:
        return self.kind == "pipeline"

    @cached_property
    def comparison(self) -> dict[str, Any]:
        """What `posttrain compare` wrote."""
        return read_object(self.path / _COMPARISON)

    @property
    def seconds(self) -> float | None:
        """How long all of it took."""
        times = [part.seconds for part in (self.stages or self.trainings)]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) if known else None


def find_subject(path: Path) -> Subject:
    """The run, pipeline, comparison or evaluation in this directory.

    Raises DataError where there is none, saying what there is.
    """
    if not path.is_dir():
        around = [other.name for other in _directories(path.parent)] if path.parent.is_dir() else []
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}; name the directory of a run or a pipeline{nearest(path.name, around)}")
    stages = _stages(path)
    if stages:
        return _pipeline(path, stages)
    if (path / _LOG).is_file() or (path / _CONFIG).is_file() or (path / "evaluation").is_dir():
        training = Training(name=path.resolve().name, directory=path)
        return Subject(
            path=path,
            title=training.name,
            kind="run",
            stages=(),
            trainings=(training,),
            evaluations=tuple(training.evaluations),
        )
    if (path / _COMPARISON).is_file():
        return _comparison(path)
    if holds_evaluation(path):
        name = path.resolve().name
        evaluations = (Evaluation(label=name, directory=path),)
        return Subject(path=path, title=name, kind="evaluation", stages=(), trainings=(), evaluations=evaluations)
    inside = [d for d in _directories(path) if _stages(d) or (d / _LOG).is_file()]
    if len(inside) == 1:
        return find_subject(inside[0])
    if inside:
        raise DataError(f"{path} holds {len(inside)} runs; name one of them: {', '.join(map(str, inside[:8]))}")
    raise DataError(
        f"{path} holds neither a run ({_LOG}, {_CONFIG}) nor a pipeline (a directory with {_STAGE} for each stage), "
        "and no comparison or evaluation. Name the output_dir of a training or of `posttrain run`"
    )


def read_gate(directory: Path) -> dict[str, Any]:
    """The gate's decision in a directory, or an empty mapping."""
    found = read_object(directory / _GATE)
    return found if isinstance(found.get("sentence"), str) else {}


def _pipeline(path: Path, stages: Sequence[Stage]) -> Subject:
    trainings = tuple(stage.training for stage in stages if stage.training is not None)
    evaluations = _stage_evaluations(stages)
    if not evaluations:
        for training in trainings:
            evaluations += [
                Evaluation(label=f"{training.name}, {one.label}", directory=one.directory, step=one.step)
                for one in training.evaluations
            ]
    recipe = read_yaml(path / "recipe.yaml")
    return Subject(
        path=path,
        title=str(recipe.get("name") or path.resolve().name),
        kind="pipeline",
        stages=tuple(stages),
        trainings=trainings,
        evaluations=tuple(evaluations),
    )


def _comparison(path: Path) -> Subject:
    """The two evaluations of a comparison: inside its directory where it made them, else where it read them."""
    said = read_object(path / _COMPARISON)
    found = []
    for side in ("before", "after"):
        directory = path / side if (path / side).is_dir() else Path(str(said.get(side)))
        if holds_evaluation(directory):
            found.append(Evaluation(label=side, directory=directory))
    name = path.resolve().name
    return Subject(path=path, title=name, kind="comparison", stages=(), trainings=(), evaluations=tuple(found))


def _stages(path: Path) -> list[Stage]:
    """The stages below the directory: as `recipe.yaml` orders them, else as they were written."""
    found = [
        Stage(name=directory.name, directory=directory, record=read_object(directory / _STAGE))
        for directory in _directories(path)
        if (directory / _STAGE).is_file() and not _MOVED_ASIDE.search(directory.name)
    ]
    named = read_yaml(path / "recipe.yaml").get("stages")
    order = [str(_mapping(stage).get("name")) for stage in named] if isinstance(named, list) else []
    return sorted(
        found,
        key=lambda stage: (
            order.index(stage.name) if stage.name in order else len(order),
            (stage.directory / _STAGE).stat().st_mtime_ns,
        ),
    )


def _stage_evaluations(stages: Sequence[Stage]) -> list[Evaluation]:
    """What the stages measured, each with the evaluation of the model that its drift is from."""
    found: list[Evaluation] = []
    measured: dict[str, str] = {}  # hash of a model -> the label of its evaluation
    for stage in stages:
        if holds_evaluation(stage.directory):
            evaluation = replace(
                _stage_evaluation(stage, stages), start=measured.get(str(stage.inputs.get("drift_from")))
            )
            found.append(evaluation)
            measured[str(stage.inputs.get("model"))] = evaluation.label
    return found


def _stage_evaluation(stage: Stage, stages: Sequence[Stage]) -> Evaluation:
    """An evaluation under the name of the model it measured."""
    label = re.sub(r"[_-]?(scores|evaluation|eval)$", "", stage.name)
    evaluation = Evaluation(label=label or stage.name, directory=stage.directory)
    if label in ("", stage.name):
        models = {str(made.get("model")) for made in evaluation.made_with.values()}
        makers = [other.name for other in stages if str(other.outputs.get("model")) in models]
        if makers:
            return Evaluation(label=makers[0], directory=stage.directory)
    return evaluation


def _directories(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
