"""What a checkpoint must gain and may lose to be promoted: `gate.yaml`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from posttrain.config.base import Config, option
from posttrain.config.yaml_file import apply_overrides, read_mapping
from posttrain.errors import ConfigError

_POINTS = "as a share: 0.02 is two points"


class Target(Config):
    """A task that the training is for."""

    task: str = option(..., "Name of a task.")
    min_gain: float = option(0.0, f"Gain that must be measured, {_POINTS}; any gain must be certain.", ge=0, lt=1)


class Retention(Config):
    """A task that must not suffer."""

    task: str = option(..., "Name of a task.")
    max_loss: float = option(..., f"Loss that must be ruled out, {_POINTS}.", gt=0, lt=1)


class GateConfig(Config):
    """The gate. `docs/gate.md` says what each field means and how to choose it."""

    targets: list[Target] = option([], "Tasks that must gain: task, min_gain.")
    retention: list[Retention] = option([], "Tasks that may not lose more than: task, max_loss.")
    max_kl: float | None = option(
        None, "Drift from the start, in nats a token, below which it must surely be; none = any.", gt=0
    )
    neutral: str | None = option(
        None, "File of text (.txt, or rows with a column text) that drift is measured on, too."
    )
    level: float = option(0.95, "One minus the chance of promoting what lost too much.", gt=0.5, lt=1)
    tasks: str | list[Any] | None = option(None, "File or list of task definitions; none = tasks known by name.")

    _home: Path = PrivateAttr(default=Path())

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """The gate in a YAML file; files of `tasks` that lie beside it are found from anywhere."""
        values, lines = read_mapping(path)
        places = {".".join(map(str, key)): f"{os.fspath(path)} line {line}" for key, line in lines.items()}
        apply_overrides(values, overrides, places, cls.parse_field)
        home = Path(path).parent
        if isinstance(neutral := values.get("neutral"), str):
            values["neutral"] = _beside(neutral, home)
        if isinstance(tasks := values.get("tasks"), str | list):
            beside = [_beside(task, home) for task in ([tasks] if isinstance(tasks, str) else tasks)]
            values["tasks"] = beside[0] if isinstance(tasks, str) else beside
        gate = cls.from_values(values, places)
        gate._home = home
        return gate

    @property
    def home(self) -> Path:
        """The directory that paths inside the definitions in `tasks` are relative to: the file's own."""
        return self._home

    def to_dict(self) -> dict[str, Any]:
        items = {name: [item.to_dict() for item in getattr(self, name)] for name in ("targets", "retention")}
        return super().to_dict() | items

    def task_names(self) -> list[str]:
        """What has to be measured: targets first, in the order written."""
        return [target.task for target in self.targets] + [item.task for item in self.retention]

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.targets and not self.retention and self.max_kl is None:
            yield "targets", "the gate asks for nothing; name targets, retention or max_kl"
        names = self.task_names()
        for index, name in enumerate(names):
            if name in names[:index]:
                field = "targets" if index < len(self.targets) else "retention"
                why = "; a target has to gain, so it cannot lose" if name in names[: len(self.targets)] else ""
                yield (
                    field,
                    f"task {name!r} stands twice in the gate; name it once{why if field == 'retention' else ''}",
                )

    def _build(self, values: dict[str, Any], places: dict[str, str]) -> None:
        found: list[str] = []
        for name, kind in (("targets", Target), ("retention", Retention)):
            if name in values:
                values[name] = _items(kind, name, values[name], places, found)
        if found:
            raise ConfigError("\n".join(found))
        super()._build(values, places)


def _items(kind: type[Config], name: str, given: Any, places: Mapping[str, str], found: list[str]) -> list[Config]:
    """The entries of a list, each checked; what is wrong goes to `found`."""
    place = places.get(name, "GateConfig")
    example = "{" + ", ".join(f"{field}: ..." for field in kind.model_fields) + "}"
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        found.append(f"{place}: {name} must be a list with one `- {example}` for each task")
        return []
    items = []
    for index, entry in enumerate(given):
        if isinstance(entry, kind):
            items.append(entry)
            continue
        line = places.get(f"{name}.{index}", place)
        if not isinstance(entry, Mapping):
            found.append(f"{line}: an entry of {name} is {example}, not {entry!r}")
            continue
        where = dict.fromkeys(kind.model_fields, line)
        where |= {str(field): places.get(f"{name}.{index}.{field}", line) for field in entry}
        try:
            items.append(kind.from_values(entry, where))
        except ConfigError as error:
            found.append(str(error))
    return items


def _beside(task: Any, home: Path) -> Any:
    """A file, or the file of `file.py:function`, by a path that is right from anywhere, where it lies in `home`."""
    if not isinstance(task, str):
        return task
    file, colon, function = task.partition(":")
    for name, rest in ((task, ""), (file, colon + function)):
        if name and (home / name).is_file():
            return str(home / name) + rest
    return task
