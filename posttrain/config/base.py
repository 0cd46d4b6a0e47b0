"""`Config`: a checked set of fields whose errors name field, value, what is allowed and the nearest name."""

from __future__ import annotations

import enum
import os
import sys
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from posttrain.config.names import Fixed, Renamed
from posttrain.config.yaml_file import apply_overrides, parse_value, read_mapping
from posttrain.errors import ConfigError, nearest

_ELSEWHERE = "is known to TRL or transformers but not supported here"


def option(default: Any, help: str, *, group: str = "", **limits: Any) -> Any:
    """A field with its default, a line of help, its heading, and pydantic's limits (`ge`, `lt`)."""
    if isinstance(default, list | dict):
        return Field(default_factory=default.copy, description=help, json_schema_extra={"group": group}, **limits)
    return Field(default=default, description=help, json_schema_extra={"group": group}, **limits)


class Config(BaseModel):
    """Fields that are checked when they are set, together as well as one by one.

    Every problem is a `ConfigError`. `places` says where a value was written ("sft.yaml line 3"); without it
    the class stands there.
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        defer_build=True,  # --help needs the fields, not the validators
    )

    renamed: ClassVar[Mapping[str, Renamed]] = {}  # names of other versions and libraries
    fixed: ClassVar[Mapping[str, Fixed]] = {}  # names that can have one value only
    no_effect: ClassVar[Mapping[str, str]] = {}  # names whose every value means the same here, and why
    unsupported: ClassVar[Mapping[str, str]] = {}  # names known elsewhere, and what to do instead
    unsupported_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # the same for single values of a field

    if not typing.TYPE_CHECKING:  # a type checker sees the fields as keywords instead

        def __init__(self, **values: Any) -> None:
            self._build(values, {})

    @classmethod
    def from_values(cls, values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Self:
        """The configuration with these values; errors say where each was written."""
        config = cls.__new__(cls)
        config._build(dict(values), dict(places or {}))
        return config

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """The configuration in a YAML file, changed by overrides like `learning_rate=1e-4` or `a.b=3`."""
        values, lines = read_mapping(path)
        places = {str(key[0]): f"{os.fspath(path)} line {line}" for key, line in lines.items() if len(key) == 1}
        apply_overrides(values, overrides, places, cls.parse_field)
        return cls.from_values(values, places)

    @classmethod
    def parse_field(cls, name: str, text: str) -> Any:
        """The value that text on a command line means for the field; text where the field takes text."""
        value = parse_value(text)
        if name not in cls.model_fields:
            return value
        members = _members(cls.model_fields[name].annotation)
        kept = tuple(kind for kind in (bool, list, dict) if kind in members)
        return text if str in members and value is not None and not isinstance(value, kept) else value

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}

    def to_yaml(self) -> str:
        """The fields as YAML that `from_yaml` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return type(self)(**{**{n: getattr(self, n) for n in self.model_fields_set}, **changes})

    def problems(self) -> Iterator[tuple[str, str]]:
        """(field, what is wrong) for fields that do not go together. Subclasses add theirs."""
        yield from ()

    def _build(self, values: dict[str, Any], places: dict[str, str]) -> None:
        cls = type(self)
        found: list[str] = []
        accepted, origin = cls._translate(values, places, found)
        try:
            BaseModel.__init__(self, **accepted)
        except ValidationError as error:
            found += [cls._explain(name, accepted.get(name), origin) for name in _names(error)]
        if not found:
            self._settle()
            found = [f"{cls._place(name, origin)}: {text}" for name, text in self.problems()]
        if found:
            raise ConfigError("\n".join(found))

    def _settle(self) -> None:
        """Fills in what follows from other fields."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        cls = type(self)
        found: list[str] = []
        accepted, origin = cls._translate({name: value}, {}, found)
        if found:
            raise ConfigError("\n".join(found))
        before = dict(self.__dict__)
        for field, new in accepted.items():
            try:
                super().__setattr__(field, new)
            except ValidationError:
                raise ConfigError(cls._explain(field, new, origin)) from None
        found = [f"{cls._place(field, origin)}: {text}" for field, text in self.problems()]
        if found:
            self.__dict__.update(before)
            raise ConfigError("\n".join(found))

    @classmethod
    def _translate(
        cls, values: Mapping[str, Any], places: Mapping[str, str], found: list[str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The values under their names here, and where they stand; what is refused goes to `found`."""
        accepted: dict[str, Any] = {}
        origin = dict(places)
        for name, value in values.items():
            place = cls._place(name, places)
            if name in cls.model_fields:
                accepted[name] = value
            elif (rename := cls.renamed.get(name)) is not None:
                new = rename.apply(value)
                if rename.note:
                    _warn(f"{place}: {name} {rename.note}", FutureWarning)
                for field, changed in new.items():
                    if field in values and values[field] != changed:
                        found.append(f"{place}: {name}={value!r} contradicts {field}={values[field]!r}; keep one")
                    accepted.setdefault(field, changed)
                    origin[field] = place if name in places else f"{place}.{name}"
            elif (fixed := cls.fixed.get(name)) is not None:
                if value not in fixed.values:
                    only = " or ".join(repr(v) for v in fixed.values)
                    found.append(f"{place}: {name}={value!r} is not possible here, only {only}: {fixed.reason}")
            elif name in cls.no_effect:
                if cls.no_effect[name]:
                    _warn(f"{place}: {name} changes nothing here: {cls.no_effect[name]}", UserWarning)
            elif name in cls.unsupported:
                found.append(f"{place}: {name} {_ELSEWHERE}: {cls.unsupported[name]}")
            else:
                known = [*cls.model_fields, *cls.renamed, *cls.fixed]
                hint = nearest(name, known) or f"; {cls.__name__} has {', '.join(sorted(cls.model_fields))}"
                found.append(f"{place}: unknown field {name!r}{hint}")
        return accepted, origin

    @classmethod
    def _place(cls, name: str, places: Mapping[str, str]) -> str:
        return places.get(name, cls.__name__)

    @classmethod
    def _explain(cls, name: str, value: Any, places: Mapping[str, str]) -> str:
        place = cls._place(name, places)
        field = cls.model_fields[name]
        if field.is_required() and value is None:
            return f"{place}: {name} is missing: {field.description}"
        for single in value if isinstance(value, list | tuple) else [value]:
            reason = cls.unsupported_values.get(name, {}).get(str(single))
            if reason is not None:
                return f"{place}: {name}={single!r} {_ELSEWHERE}: {reason}"
        hint = nearest(value, choices(field.annotation)) if isinstance(value, str) else ""
        default = "" if field.is_required() else f" (default {_plain(field.get_default(call_default_factory=True))!r})"
        return f"{place}: {name}={value!r} is not allowed; {name} takes {allowed(field)}{default}{hint}"

    @field_validator("*", mode="before")
    @classmethod
    def _tidy(cls, value: Any, info: ValidationInfo) -> Any:
        """The value as a plain one: enumeration members, paths, torch dtypes, "none", YAML for a dict."""
        field = cls.model_fields[info.field_name or ""]
        members = _members(field.annotation)
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if type(value).__module__ == "torch" and str(value).startswith("torch."):
            value = str(value).removeprefix("torch.")
        if isinstance(value, bool) and bool not in members and not (set(choices(field.annotation)) & {value}):
            raise ValueError("true and false are not numbers")
        if isinstance(value, str) and type(None) in members and value.lower() in ("none", "null", ""):
            return None
        if isinstance(value, str) and dict in members and value.lstrip().startswith("{"):
            try:
                return yaml.safe_load(value)
            except yaml.YAMLError:
                return value
        return value


def _warn(message: str, category: type[Warning]) -> None:
    """Warns at the line outside this package that set the field."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("posttrain.config"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _names(error: ValidationError) -> list[str]:
    """The fields an error is about, each once, in order."""
    return list(dict.fromkeys(str(item["loc"][0]) for item in error.errors() if item["loc"]))


def members_of(field: FieldInfo | Any) -> list[Any]:
    """The types that a field or an annotation takes, generic ones by their origin."""
    return _members(field.annotation if isinstance(field, FieldInfo) else field)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, generic ones by their origin (`dict[str, Any]` -> dict)."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in _members(part)]
    return [typing.get_origin(annotation) or annotation]


def choices(annotation: Any) -> list[Any]:
    """The literal values of an annotation, wherever they stand in it; empty when there are none."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in choices(part)]


_WORDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    type(None): "none",
}


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: "a whole number of at least 1, or none"."""
    return _describe(field.annotation, field.metadata)


def _describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return _describe(inner, [*metadata, *(m for item in more for m in getattr(item, "metadata", [item]))])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(_describe(part, metadata) for part in typing.get_args(annotation))
    if origin is typing.Literal:
        values = [str(value) for value in typing.get_args(annotation)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if origin is list:
        return f"a list, each item {_describe(typing.get_args(annotation)[0])}"
    kind = _KINDS.get(origin or annotation, "a value")
    limits = [
        text.format(getattr(item, key)) for item in metadata for key, text in _WORDS.items() if hasattr(item, key)
    ]
    if not limits or kind not in ("a whole number", "a number"):
        return kind
    return f"{kind} {'of ' if limits[0].startswith('at') else ''}{' and '.join(limits)}"


def _plain(value: Any) -> Any:
    """The value as YAML can hold it; an object that it cannot hold as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return str(value).removeprefix("torch.")
