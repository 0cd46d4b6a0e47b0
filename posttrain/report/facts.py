"""What is said about a run beside its results: data, alarms, settings, versions, and how to do it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from posttrain.report.files import number, read_object, read_text
from posttrain.report.subject import Stage, Subject, Training
from posttrain.report.text import duration, short, visible, words

Fact = tuple[str, str]

_MAIN_SETTINGS = (
    "model", "train_dataset", "eval_dataset", "learning_rate", "lr_scheduler_type", "warmup_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "max_grad_norm",
    "loss_type", "loss_weights", "beta", "num_generations", "temperature", "max_length", "max_completion_length",
    "seed", "data_seed", "dtype", "bf16", "num_threads",
)  # fmt: skip
_DATA_TEXTS = (
    ("source", "source"),
    ("format", "format"),
    ("understood", "how columns were read"),
    ("trained", "trained"),
)
_DATA_COUNTS = (
    ("rows_read", "rows read"), ("rows_kept", "rows kept"), ("truncated", "rows cut to max_length"),
    ("tokens", "tokens"), ("trained_tokens", "trained tokens"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Data:
    """What became of one dataset."""

    title: str
    facts: tuple[Fact, ...]
    dropped: tuple[Fact, ...] = ()  # how many, and why
    notes: tuple[str, ...] = ()
    example: Markup | None = None  # one row as the model sees it, its trained part marked


@dataclass(frozen=True, kw_only=True)
class AlarmLine:
    """An alarm, however often it sounded."""

    training: str
    name: str
    text: str  # as it was said last
    steps: str
    stopped: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one training."""

    title: str
    facts: tuple[Fact, ...]
    text: str  # config.yaml


def data_of(subject: Subject) -> list[Data]:
    """What happened to the data of each training, and what stages wrote about the data that they made."""
    found = []
    for training in subject.trainings:
        title = training.name if subject.is_pipeline else ""
        reports = training.data
        if isinstance(reports, dict) and "rows_read" not in reports:
            named = [(f"{title} {words(str(name))}".strip(), one) for name, one in reports.items()]
        else:
            named = [(title, one) for one in (reports if isinstance(reports, list) else [reports])]
        found += [_data(name, one) for name, one in named if isinstance(one, dict)]
    for stage in subject.stages:
        for path in sorted(stage.directory.glob("*.counts.json")):
            counts = read_object(path)
            if counts:
                name = path.name.removesuffix(".counts.json")
                title = stage.name if name == stage.name else f"{stage.name}: {name}"
                found.append(Data(title=title, facts=tuple(facts(counts))))
    return found


def alarms_of(subject: Subject) -> list[AlarmLine]:
    """Every alarm of the logs once."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for training in subject.trainings:
        for line in training.alarms:
            found.setdefault((training.name, line["alarm"]), []).append(line)
    lines = []
    for (training_name, name), times in found.items():
        steps = [step for line in times if (step := number(line.get("step"))) is not None]
        when = "" if not steps else f"step {steps[0]:.0f}"
        if len(steps) > 1:
            when = f"{len(steps)} times, steps {steps[0]:.0f} to {steps[-1]:.0f}"
        lines.append(
            AlarmLine(
                training=training_name,
                name=name,
                text=str(times[-1].get("text", "")),
                steps=when,
                stopped=any(line.get("stopped") is True for line in times),
            )
        )
    return lines


def stage_lines(stages: Sequence[Stage]) -> list[dict[str, str]]:
    """What each stage of a pipeline did."""
    lines = []
    for stage in stages:
        left = [f"{words(name)} {value}" for name, value in facts(stage.summary) if " / " not in name]
        lines.append(
            {
                "Stage": stage.name,
                "Method": words(stage.method or ""),
                "Status": stage.status,
                "Time": duration(stage.seconds),
                "Left": ", ".join(left),
            }
        )
    return lines


def settings_of(training: Training, title: str) -> Settings | None:
    """The settings of a training; None where it wrote none."""
    if not training.config_text:
        return None
    config = training.config
    main = [(words(name), _value(config[name])) for name in _MAIN_SETTINGS if config.get(name) not in (None, -1)]
    return Settings(title=title, facts=tuple(main), text=training.config_text)


def environment_of(subject: Subject) -> list[Fact]:
    """Versions, hardware and time, as the last training that says so has them."""
    found = [read_object(subject.path / "environment.json")]
    found += [training.environment for training in reversed(subject.trainings)]
    known: dict[str, Any] = next((one for one in found if one), {})
    return facts({name: value for name, value in known.items() if name != "command"})


def command_of(subject: Subject) -> str | None:
    """What to type to do it again; None where nothing says so."""
    if subject.kind == "comparison":
        sides = [str(subject.comparison.get(side)) for side in ("before", "after")]
        return shlex.join(["posttrain", "compare", *sides])
    own = read_object(subject.path / "environment.json")
    environments = [own] if subject.is_pipeline else [own, *(training.environment for training in subject.trainings)]
    for environment in environments:
        command = environment.get("command")
        if isinstance(command, list) and all(isinstance(word, str) for word in command):
            return shlex.join(command)
        if isinstance(command, str) and command:
            return command
    if subject.is_pipeline and (subject.path / "recipe.yaml").is_file():
        return shlex.join(["posttrain", "run", str(subject.path / "recipe.yaml")])
    return None


def recipe_of(subject: Subject) -> str:
    """The recipe of a pipeline, as it was run."""
    return read_text(subject.path / "recipe.yaml") if subject.is_pipeline else ""


def facts(values: Mapping[str, Any], above: str = "") -> list[Fact]:
    """Names and values, those inside others under both names."""
    found: list[Fact] = []
    for name, value in values.items():
        label = f"{above}{words(str(name))}"
        if isinstance(value, Mapping):
            found += facts(value, f"{label} / ")
        elif value is not None:
            found.append((label, _value(value, name=str(name))))
    return found


def _value(value: Any, name: str = "") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value) if "seed" in name or abs(value) < 10_000 else f"{value:,}"
    if (known := number(value)) is not None:
        return duration(known) if name in ("seconds", "time_s") else short(known)
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)


def _data(title: str, report: Mapping[str, Any]) -> Data:
    if "rows_read" not in report:
        return Data(title=title, facts=tuple(facts(report)))
    found = [(label, str(report[key])) for key, label in _DATA_TEXTS if report.get(key)]
    found += [(label, f"{n:,.0f}") for key, label in _DATA_COUNTS if (n := number(report.get(key))) is not None]
    lengths = report.get("lengths")
    if isinstance(lengths, Mapping) and lengths:
        found.append(("lengths in tokens", ", ".join(f"{name} {_value(value)}" for name, value in lengths.items())))
    if report.get("ignored_columns"):
        found.append(("columns not used", _value(report["ignored_columns"])))
    dropped = []
    if isinstance(report.get("dropped"), Mapping):
        for reason, one in report["dropped"].items():
            where = _value(one.get("first") or "") if isinstance(one, Mapping) else ""
            count = _value(one.get("count", "")) if isinstance(one, Mapping) else _value(one)
            dropped.append((count, f"{reason}{f': {where}' if where else ''}"))
    example = report.get("example")
    notes = report.get("notes")
    return Data(
        title=title,
        facts=tuple(found),
        dropped=tuple(dropped),
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
        example=_marked(example) if isinstance(example, str) and example else None,
    )


def _marked(example: str) -> Markup:
    """The text with what stands in [[...]] marked."""
    parts = re.split(r"\[\[(.*?)\]\]", visible(example[:8000]), flags=re.DOTALL)
    return Markup("").join(
        Markup("<mark>{}</mark>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )
