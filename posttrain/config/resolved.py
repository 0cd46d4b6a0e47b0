"""What a YAML file comes to: every value, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config.base import Config
from posttrain.config.explain import SHAPES
from posttrain.config.recipe import load_recipe
from posttrain.config.yaml_file import apply_overrides, read_mapping
from posttrain.errors import ConfigError, nearest

DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The checked values of one stage, or of a file without stages."""

    title: str
    values: Mapping[str, Any]
    places: Mapping[str, str]  # where each value was written; "default" where it was not


def resolve_file(path: str | os.PathLike[str], overrides: Sequence[str], method: str | None) -> list[Resolved]:
    """The stages of a recipe, or the one configuration that the file is, read as that of `method`.

    Raises ConfigError for what cannot run, as running it would.
    """
    values, lines = read_mapping(path)
    if "stages" in values:
        if method is not None:
            raise ConfigError(f"{os.fspath(path)} is a recipe, whose stages name their methods; leave --method out")
        return _stages(path, overrides)
    if method is None:
        raise ConfigError(f"{os.fspath(path)} has no stages, so it is no recipe: say what reads it, --method sft")
    shape = SHAPES.get(method.replace("-", "_"))
    if shape is None:
        raise ConfigError(f"no method {method!r}{nearest(method, SHAPES)} (there are {', '.join(SHAPES)})")
    places = {str(key[0]): f"line {line}" for key, line in lines.items() if len(key) == 1}
    apply_overrides(values, overrides, places, shape.parse_field)
    required = {name for name, info in shape.model_fields.items() if info.is_required()}
    config = shape.from_values(values, dict.fromkeys(required, f"{os.fspath(path)}") | places)
    return [Resolved(title=method, values=config.to_dict(), places=_places(config, values, places))]


def _stages(path: str | os.PathLike[str], overrides: Sequence[str]) -> list[Resolved]:
    recipe = load_recipe(path, overrides)
    found = []
    for stage in recipe.stages:
        given = recipe.defaults(stage)
        config = stage.resolve({}, **given)
        said = {name: _short(stage.places[name], recipe.source) for name in stage.values}
        places = {name: "the recipe's" if name == "seed" else "later stages" for name in given} | said
        title = stage.name if stage.name == stage.method else f"{stage.name} ({stage.method})"
        found.append(
            Resolved(title=title, values=config.to_dict(), places=_places(config, {**given, **stage.values}, places))
        )
    return found


def _places(config: Config, values: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, str]:
    """Where each field's value came from; that of an old name is named with it."""
    found = dict.fromkeys(type(config).model_fields, DEFAULT)
    for name, value in values.items():
        if name in found:
            found[name] = places.get(name, DEFAULT)
        elif (rename := type(config).renamed.get(name)) is not None:
            found |= dict.fromkeys(rename.apply(value), f"{places[name]}, as {name}")
    return found


def _short(place: str, source: str) -> str:
    """`recipe.yaml line 3, stage 'sft'` without what is said above it."""
    return place.removeprefix(f"{source} ").partition(", stage")[0]
