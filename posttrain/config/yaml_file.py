"""YAML with line numbers: read strictly, so that a typo is an error that names its line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import ConfigError, nearest

Lines = dict[tuple[str | int, ...], int]  # path of keys and list indices -> line, counted from 1


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `no` and `off` are words, `1e-5` is a number, a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.nan$"),
    list("-+.0123456789"),
)


def parse_value(text: str) -> Any:
    """The value that the text stands for in YAML: `3`, `1e-5`, `[a, b]`; plain text where it is no YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def read_mapping(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file and the line of each of its keys. Raises ConfigError with file and line."""
    return parse_mapping(read_text(path), os.fspath(path))


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file. Raises ConfigError where there is none, with the nearest name beside it."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        around = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ConfigError(f"no file {str(path)!r}{nearest(path.name, around)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{str(path)!r} is a directory; name a YAML file") from None
    except (UnicodeDecodeError, PermissionError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from None


def parse_mapping(text: str, source: str) -> tuple[dict[str, Any], Lines]:
    """The same from text; `source` stands in the errors."""
    loader = _Loader(text)
    lines: Lines = {}
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, lines
        value = _construct(loader, node, (), lines, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not valid YAML: {error.problem}; check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        what = "a list" if isinstance(value, list) else "text" if isinstance(value, str) else type(value).__name__
        raise ConfigError(f"{source}: holds {what}, not fields; write one `name: value` a line")
    return value, lines


def _construct(loader: _Loader, node: yaml.Node, path: tuple[str | int, ...], lines: Lines, source: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in result:
                raise ConfigError(
                    f"{source} line {line}: {key!r} stands here twice (first on line {lines[*path, key]})"
                )
            lines[*path, key] = line
            result[key] = _construct(loader, value_node, (*path, key), lines, source)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1
            items.append(_construct(loader, item, (*path, index), lines, source))
        return items
    return loader.construct_object(node, deep=True)


def apply_overrides(
    values: dict[str, Any],
    overrides: Sequence[str],
    places: dict[str, str],
    parse: Callable[[str, str], Any],
) -> None:
    """Sets `name=value` or `name.key=value` in `values`, in order, and notes in `places` where it came from.

    `parse` turns a field's name and text into a value.
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"{override!r} is no override; write field=value, such as learning_rate=1e-4")
        set_dotted(values, name, parse(name, text), place := f"override {override!r}")
        places[name.split(".")[0]] = place


def set_dotted(values: dict[str, Any], name: str, value: Any, place: str) -> None:
    """Sets `a.b.c` inside nested mappings, which are made where they are missing."""
    *parents, last = name.split(".")
    at: Any = values
    for key in parents:
        if at.get(key) is None:
            at[key] = {}
        at[key] = dict(at[key]) if isinstance(at[key], Mapping) else at[key]
        at = at[key]
        if not isinstance(at, dict):
            raise ConfigError(f"{place}: {key!r} holds {at!r}, which has no field {last!r}")
    at[last] = value
