"""Flags made from a configuration's fields: a field's name is its YAML key and its flag."""

from __future__ import annotations

import shutil
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from posttrain.config.base import Config, allowed, choices, members_of
from posttrain.config.yaml_file import apply_overrides, read_mapping, set_dotted
from posttrain.errors import ConfigError

_TRUTH = ("true", "false", "yes", "no", "on", "off", "1", "0", "none", "null")
ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(kw_only=True)
class Given:
    """What stands on a command line."""

    help: bool = False
    config: str | None = None
    flags: list[tuple[str, Any, str]] = field(default_factory=list)  # field, value, as written
    overrides: list[str] = field(default_factory=list)  # field=value


def read(config: type[ConfigT], arguments: Sequence[str]) -> ConfigT:
    """The configuration that a command line asks for: a YAML file, if named, then flags and overrides on top.

    Raises ConfigError naming the flag or the line of the file. Notes on old names go to stderr.
    """
    given = parse(config, arguments)
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if given.config is not None:
        values, lines = read_mapping(given.config)
        places = {str(key[0]): f"{given.config} line {line}" for key, line in lines.items() if len(key) == 1}
    for name, value, written in given.flags:
        set_dotted(values, name, value, written)
        places[name.split(".")[0]] = written
    apply_overrides(values, given.overrides, places, config.parse_field)
    for name, info in config.model_fields.items():
        if info.is_required():
            places.setdefault(name, "command line")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        result = config.from_values(values, places)
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    return result


def parse(config: type[Config], arguments: Sequence[str]) -> Given:
    """What stands on the command line, values not yet checked. Raises ConfigError for what is no flag."""
    given = Given()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            given.help = True
        elif word in ("-c", "--config") or word.startswith("--config="):
            given.config = word.partition("=")[2] or _next(word, rest, "a YAML file")
        elif word.startswith("--"):
            given.flags.append(_flag(config, word, rest))
        elif _is_override(word):
            given.overrides.append(word)
        else:
            if word.endswith((".yaml", ".yml")):
                hint = f"did you mean `--config {word}`?"
            elif "inputs" in config.model_fields:
                hint = "inputs stand together, before the flags"
            else:
                hint = f"did you mean `--model {word}`?"
            raise ConfigError(f"{word!r} stands alone; {hint}")
    return given


def _flag(config: type[Config], word: str, rest: list[str]) -> tuple[str, Any, str]:
    """(field, value, as written) of a flag, taking its value from the words after it."""
    written, equals, text = word.partition("=")
    name = written[2:].replace("-", "_")
    negated = name.removeprefix("no_")
    if equals:
        return name, config.parse_field(name, text), written
    kinds = _kinds(config, name)
    if bool in kinds:
        if rest and rest[0].lower() in _TRUTH:
            return name, config.parse_field(name, rest.pop(0)), written
        if kinds <= {bool, type(None)} or not rest or rest[0].startswith("--") or _is_override(rest[0]):
            return name, True, written
    elif negated != name and bool in _kinds(config, negated) and name not in _known(config):
        return negated, False, written
    if list in kinds:
        words = []
        while rest and not rest[0].startswith("--") and not _is_override(rest[0]):
            words.append(rest.pop(0))
        if len(words) == 1:
            return name, config.parse_field(name, words[0]), written
        if words:
            return name, words, written
    if name not in _known(config) and (not rest or rest[0].startswith("--")):
        return name, True, written  # an unknown name: the configuration says what is near
    return name, config.parse_field(name, _next(written, rest, _takes(config, name))), written


def _next(word: str, rest: list[str], what: str) -> str:
    if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
        raise ConfigError(f"{word} needs a value after it: {what}")
    return rest.pop(0)


def _takes(config: type[Config], name: str) -> str:
    info = config.model_fields.get(name)
    return allowed(info) if info is not None else "see --help"


def _known(config: type[Config]) -> set[str]:
    return {*config.model_fields, *config.renamed, *config.fixed, *config.no_effect, *config.unsupported}


def _kinds(config: type[Config], name: str) -> set[Any]:
    """The types a field takes; those of its new name or of its only values, for names that are no field."""
    if (info := config.model_fields.get(name)) is not None:
        return set(members_of(info))
    if (rename := config.renamed.get(name)) is not None:
        return {kind for new in rename.apply(True) for kind in _kinds(config, new)} or {bool, str}
    if (fixed := config.fixed.get(name)) is not None:
        return {type(value) for value in fixed.values}
    return {bool, str} if name in config.no_effect or name in config.unsupported else set()


def _is_override(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and all(part.isidentifier() for part in name.replace("-", "_").split("."))


def help_text(config: type[Config], *, usage: str, about: str, example: str) -> str:
    """The help page: every field under its heading, with what it takes and its default."""
    width = min(shutil.get_terminal_size().columns, 100)
    groups: dict[str, list[str]] = {}
    for name, info in config.model_fields.items():
        extra = info.json_schema_extra
        group = str(extra.get("group") or "Other") if isinstance(extra, Mapping) else "Other"
        flag = f"  --{name} {_placeholder(info.annotation)}"
        default = "required" if info.is_required() else f"default {_shown(info.get_default(call_default_factory=True))}"
        values = choices(info.annotation)
        takes = f" One of {', '.join(map(str, values))}." if len(values) > 1 else ""
        text = textwrap.fill(
            f"{info.description}{takes} [{default}]", width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        groups.setdefault(group, []).append(f"{flag}\n{text}")
    first = sorted(groups, key=lambda group: group != "Model and data")
    pages = [f"{group}:\n" + "\n".join(groups[group]) for group in first]
    return "\n\n".join(
        [
            f"Usage: {usage}",
            textwrap.fill(about, width),
            f"Example:\n{textwrap.indent(example.strip(), '  ')}",
            *pages,
            textwrap.fill(
                "Every flag is also a key of the YAML file given with --config FILE and an override "
                "name=value (name.key=value inside a mapping); --learning-rate is --learning_rate; "
                "--no_NAME is --NAME false.",
                width,
            ),
        ]
    )


def _placeholder(annotation: Any) -> str:
    words = {bool: "[BOOL]", int: "INT", float: "NUMBER", str: "TEXT", dict: "MAPPING", list: "A B ..."}
    kinds = [words.get(kind, "NAME") for kind in members_of(annotation) if kind is not type(None)]
    return "|".join(dict.fromkeys(kinds))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
