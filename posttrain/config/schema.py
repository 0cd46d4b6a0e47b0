"""JSON Schemas of the configurations (draft 2020-12), from which editors complete, explain and check YAML files."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

from pydantic.fields import FieldInfo

from posttrain.config.base import Config, choices, members_of
from posttrain.config.evaluation import TaskConfig
from posttrain.config.gate import GateConfig
from posttrain.config.methods import METHODS
from posttrain.config.recipe import SET_BY_RUNNER
from posttrain.config.sources import SourceFields
from posttrain.errors import ConfigError, nearest

Schema = dict[str, Any]
SUBJECTS = ("recipe", "gate", "task", *METHODS)

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}
_LIMITS = {
    "ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum",
    "min_length": "minItems", "max_length": "maxItems", "multiple_of": "multipleOf",
}  # fmt: skip
_NONE: Schema = {"enum": [None, "none"]}  # both are read as none


def schema(subject: str) -> Schema:
    """The schema of `recipe`, `gate`, `task` (tasks.yaml), or of a method's YAML file.

    What is required may come from the command line, so no field is required but a stage's method.
    """
    if subject not in SUBJECTS:
        raise ConfigError(f"no schema of {subject!r}{nearest(subject, SUBJECTS)} (there are {', '.join(SUBJECTS)})")
    if subject == "recipe":
        found = _recipe()
    elif subject == "gate":
        found = _fields(GateConfig)
    elif subject == "task":
        found = _tasks()
    else:
        found = _fields(METHODS[subject].fields)
    return {"$schema": _DRAFT, "title": f"posttrain {subject}", **found}


def _recipe() -> Schema:
    names = list(METHODS)
    cases = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": {"$ref": f"#/$defs/{name}"},
        }
        for name in names
    ]
    stage = {
        "type": "object",
        "properties": {
            "name": _NAME,
            "method": {"enum": names, "description": "What the stage does; its fields follow from it."},
        },
        "required": ["method"],
        "allOf": cases,
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "name": {"type": "string", "description": "The recipe's name; none = the file's."},
            "description": {"type": ["string", "null"], "description": "What it is for, in words."},
            "output_dir": {"type": "string", "description": "Each stage writes to a directory under it."},
            "seed": {"type": ["integer", "null"], "minimum": 0, "description": "Seed of every stage that has none."},
            "after": {
                "type": "string",
                "description": "Another recipe's file, beside this one, whose stages go first.",
            },
            "stages": {"type": "array", "minItems": 1, "items": stage, "description": "What is done, in order."},
        },
        "$defs": {name: _stage(name) for name in names},
    }


_NAME = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$",
    "description": "The stage's name, by which later ones refer to it, ${name.output}; none = the method's.",
}


def _stage(method: str) -> Schema:
    """The fields of a stage of this method, with name and method themselves."""
    shape = METHODS[method]
    outputs = ", ".join(f"${{NAME.{output}}}" for output in shape.outputs)
    found = _fields(shape.fields)
    found["description"] = f"A stage of method {method}; later stages read {outputs}."
    found["properties"] = {
        "name": _NAME,
        "method": {"const": method},
        **{name: entry for name, entry in found["properties"].items() if name not in SET_BY_RUNNER},
        **{name: _refused(f"leave it out: {why}") for name, why in SET_BY_RUNNER.items()},
    }
    return found


def _tasks() -> Schema:
    one = _fields(TaskConfig)
    return {
        "$defs": {"task": one},
        "if": {"type": "object", "required": ["tasks"]},
        "then": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"tasks": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/task"}}},
        },
        "else": {"$ref": "#/$defs/task"},
    }


def _fields(config: type[Config]) -> Schema:
    """An object with the fields, and with the names of other versions and libraries as far as they are taken."""
    own = {name: _field(config, name) for name in config.model_fields}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **own,
            **{name: _renamed(config, name, own) for name in config.renamed},
            **{
                name: {"enum": _once(fixed.values), "description": f"Only this: {fixed.reason}.", **_QUIET}
                for name, fixed in config.fixed.items()
            },
            **{
                name: {"description": f"Changes nothing here{why and ': ' + why}.", **_QUIET}
                for name, why in config.no_effect.items()
            },
            **{name: _refused(why) for name, why in config.unsupported.items()},
        },
    }


_QUIET = {"doNotSuggest": True}  # a word of VS Code's: known when it is there, not offered


def _refused(why: str) -> Schema:
    return {"not": {}, "description": f"Not taken here: {why}.", "errorMessage": why, **_QUIET}


def _renamed(config: type[Config], name: str, own: Mapping[str, Schema]) -> Schema:
    """An old name: it takes what its field takes, where it only hands the value on."""
    rename = config.renamed[name]
    probe = object()
    try:
        sets = rename.apply(probe)
    except (TypeError, ValueError):  # it reads the value
        sets = {}
    passed = [new for new, value in sets.items() if value is probe]
    taken = (
        {key: value for key, value in own[passed[0]].items() if key != "default"} if len(sets) == 1 and passed else {}
    )
    if not rename.note:
        return {**taken, "description": f"Another name of {passed[0]}." if passed else "Taken as it is.", **_QUIET}
    said = f"{name} {rename.note}"
    return {**taken, "description": f"{said}.", "deprecated": True, "deprecationMessage": said, **_QUIET}


def _field(config: type[Config], name: str) -> Schema:
    info = config.model_fields[name]
    found = _of(info.annotation, info.metadata)
    if also := _taken_beside(config, name, info):
        found = {"anyOf": [*found.get("anyOf", [found]), *also]}
    if name in _SOURCES:
        found = _with_source(found)
    about = f"{info.description} Required." if info.is_required() else str(info.description)
    default = {} if info.is_required() else {"default": info.get_default(call_default_factory=True)}
    return {**found, "description": about, **default}


def _of(annotation: Any, metadata: Sequence[Any] = ()) -> Schema:
    """The schema of a type; limits belong to the members of a union that can have them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return _of(inner, [*metadata, *(m for item in more for m in getattr(item, "metadata", [item]))])
    if origin in (typing.Union, UnionType):
        return _union([_of(part, metadata) for part in typing.get_args(annotation)])
    if origin is typing.Literal:
        return {"enum": list(typing.get_args(annotation))}
    if annotation is NoneType:
        return dict(_NONE)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return _fields(annotation)
    kind = origin or annotation
    if kind in (list, tuple, set, Sequence):
        items = _of(typing.get_args(annotation)[0]) if typing.get_args(annotation) else {}
        return {"type": "array", "items": items, **_limits(metadata, "Items")}
    if kind in (dict, Mapping):
        inner = [_of(part) for part in typing.get_args(annotation)[1:]]
        return {"type": "object", **({"additionalProperties": inner[0]} if any(inner) else {})}
    if kind in (int, float):
        return {"type": _SIMPLE[kind], **_limits(metadata, "imum", "Of")}
    return {"type": _SIMPLE[kind]} if kind in _SIMPLE else {}


def _union(members: list[Schema]) -> Schema:
    if {} in members:
        return {}
    if {"type": "string"} in members:  # "none" is text already
        members = [{"type": "null"} if member == _NONE else member for member in members]
    return {"anyOf": members}


def _limits(metadata: Sequence[Any], *endings: str) -> Schema:
    found = {
        _LIMITS[key]: getattr(item, key) for item in metadata for key in _LIMITS if getattr(item, key, None) is not None
    }
    return {key: value for key, value in found.items() if key.endswith(endings)}


def _taken_beside(config: type[Config], name: str, info: FieldInfo) -> list[Schema]:
    """Further types that the field's own validators make right, found by trying: true, none, one item of a list."""
    kinds = members_of(info)
    tried: list[tuple[Any, Schema]] = []
    if bool not in kinds:
        tried.append((True, {"type": "boolean"}))
    if NoneType not in kinds:
        tried.append((None, {"type": "null"}))
    for item in _items(info.annotation):
        example = next(iter(choices(item)), "text" if str in members_of(item) else 1.5)
        if type(example) not in kinds:
            tried.append((example, _of(item)))
    return [taken for value, taken in tried if _accepts(config, name, value)]


_SOURCES = ("train_dataset", "eval_dataset")  # mappings in these are sources of rows


def _with_source(found: Schema) -> Schema:
    """The schema with the fields of a source in place of any mapping."""
    if found == {"type": "object"}:
        return _fields(SourceFields)
    if "anyOf" in found:
        return {**found, "anyOf": [_with_source(member) for member in found["anyOf"]]}
    return {**found, "items": _with_source(found["items"])} if "items" in found else found


def _items(annotation: Any) -> list[Any]:
    """What the lists in an annotation hold."""
    if typing.get_origin(annotation) is list:
        return [typing.get_args(annotation)[0]]
    return [item for part in typing.get_args(annotation) for item in _items(part)]


def _accepts(config: type[Config], name: str, value: Any) -> bool:
    config.model_rebuild()
    try:
        config.__pydantic_validator__.validate_assignment(config.model_construct(), name, value)
    except ValueError:
        return False
    return True


def _once(values: Sequence[Any]) -> list[Any]:
    """The values, 0 and 0.0 once, false beside 0."""
    return list({(isinstance(value, bool), repr(value) if isinstance(value, list | dict) else value): value
                 for value in values}.values())  # fmt: skip
