"""`TrlParser`: the command line of a training script, with TRL's name and ways."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import create_model

from posttrain.cli.flags import help_text, parse
from posttrain.config.base import Config
from posttrain.config.yaml_file import apply_overrides, read_mapping, set_dotted
from posttrain.errors import ConfigError, nearest

_TABLES = ("renamed", "fixed", "no_effect", "unsupported")


class TrlParser:
    """Reads several configurations from one command line, or from the YAML file that `--config` names.

        parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
        script_args, training_args, model_args = parser.parse_args_and_config()

    A name goes to every configuration that has it; dataclasses of one's own may stand among them.
    """

    def __init__(self, dataclass_types: Any = None, **_: Any) -> None:
        given = dataclass_types if isinstance(dataclass_types, list | tuple) else [dataclass_types]
        self._given: list[type] = [kind for kind in given if kind is not None]
        self._kinds = [kind if issubclass(kind, Config) else _as_config(kind) for kind in self._given]
        self._all = _together(self._kinds)

    def parse_args_and_config(
        self,
        args: Sequence[str] | None = None,
        return_remaining_strings: bool = False,
        fail_with_unknown_args: bool = True,
    ) -> tuple[Any, ...]:
        """The configurations in their order. Raises ConfigError with the flag, or the line of the file."""
        if return_remaining_strings or not fail_with_unknown_args:
            raise ConfigError("every word of the command line has to be known; leave return_remaining_strings out")
        words = sys.argv[1:] if args is None else args
        given = parse(self._all, words)
        if given.help:
            print(help_text(self._all, usage=f"{sys.argv[0]} [flags]", about=self.__class__.__doc__ or "", example=""))
            raise SystemExit(0)
        values: dict[str, Any] = {}
        places: dict[str, str] = {}
        if given.config is not None:
            values, lines = read_mapping(given.config)
            places = {str(key[0]): f"{given.config} line {line}" for key, line in lines.items() if len(key) == 1}
        for name, value, written in given.flags:
            set_dotted(values, name, value, written)
            places[name.split(".")[0]] = written
        apply_overrides(values, given.overrides, places, self._all.parse_field)
        return tuple(self._made(values, places))

    def parse_args_into_dataclasses(self, args: Sequence[str] | None = None, **_: Any) -> tuple[Any, ...]:
        """The same, by the name of transformers' parser."""
        return self.parse_args_and_config(args)

    def _made(self, values: Mapping[str, Any], places: Mapping[str, str]) -> list[Any]:
        known = _names(self._all)
        for name in values:
            if name not in known:
                raise ConfigError(f"{places.get(name, 'command line')}: unknown field {name!r}{nearest(name, known)}")
        made = []
        for given, kind in zip(self._given, self._kinds):
            own = {name: value for name, value in values.items() if name in _names(kind)}
            config = kind.from_values(own, {name: place for name, place in places.items() if name in own})
            fields = config.__dict__ if given is not kind else {}
            made.append(config if given is kind else given(**{name: fields[name] for name in config.model_fields_set}))
        return made


def _names(kind: type[Config]) -> set[str]:
    return {*kind.model_fields, *(name for table in _TABLES for name in getattr(kind, table))}


def _as_config(kind: type) -> type[Config]:
    """A configuration with the fields of a dataclass."""
    if not dataclasses.is_dataclass(kind):
        raise ConfigError(f"TrlParser takes configurations of posttrain and dataclasses, not {kind!r}")
    types = typing.get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        default = field.default if field.default is not dataclasses.MISSING else ...
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields[field.name] = (types[field.name], default)
    return create_model(kind.__name__, __base__=Config, **fields)


def _together(kinds: Sequence[type[Config]]) -> type[Config]:
    """One configuration with the names of all, to read words by; it is never made."""
    tables = {
        table: {name: entry for kind in kinds for name, entry in getattr(kind, table).items()} for table in _TABLES
    }
    fields = {name for kind in kinds for name in kind.model_fields}
    tables = {
        table: {name: entry for name, entry in names.items() if name not in fields} for table, names in tables.items()
    }
    return type("Arguments", tuple(dict.fromkeys(kinds)), tables)
