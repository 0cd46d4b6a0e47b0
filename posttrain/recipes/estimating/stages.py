"""The estimates of a recipe's stages, one after the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from posttrain.config.methods import METHODS
from posttrain.config.recipe import Recipe, load_recipe
from posttrain.config.yaml_file import read_mapping
from posttrain.engine.machine import free_disk
from posttrain.errors import ConfigError, PosttrainError, nearest
from posttrain.recipes import built_in_recipes
from posttrain.recipes.estimating.advice import advice
from posttrain.recipes.estimating.chain import Link, links
from posttrain.recipes.estimating.estimate import StageEstimate, from_events
from posttrain.recipes.estimating.probing import Events, probe

Probe = Callable[..., Events]


def open_recipe(source: str, overrides: list[str], *, method: str | None = None) -> Recipe:
    """The recipe in a file or built in; a file with the fields of one method becomes a recipe of one stage.

    Raises ConfigError for one that cannot run, naming what is wrong.
    """
    built_in = built_in_recipes()
    path = built_in[source] if source in built_in and not Path(source).is_file() else Path(source)
    if not path.is_file():
        raise ConfigError(
            f"no recipe {source!r}: neither a file nor built in{nearest(source, built_in)} "
            f"(built in: {', '.join(built_in)})"
        )
    values, _ = read_mapping(path)
    if "stages" in values or "after" in values:
        if method is not None:
            raise ConfigError(f"{path}: a recipe says the method of each stage; leave --method {method} out")
        return load_recipe(path, overrides)
    chosen = method or values.get("method")
    trained = [name for name, shape in METHODS.items() if hasattr(shape.fields, "training")]
    if chosen not in trained:
        said = "it has no stages" if chosen is None else f"{chosen!r} is no method that trains"
        raise ConfigError(
            f"{path}: {said}. A recipe has stages; for a file of one method's fields add --method, one of "
            f"{', '.join(trained)}"
        )
    shape = METHODS[chosen].fields
    fields = shape.from_yaml(path, overrides)
    from posttrain.config.recipe import Stage

    given = {name: value for name, value in fields.to_dict().items() if name in fields.model_fields_set}
    home = given.pop("output_dir", "trainer_output")
    given.pop("resume_from_checkpoint", None)
    stage = Stage(name=str(chosen), method=str(chosen), values=given, places={})
    return Recipe(name=str(chosen), description="", output_dir=str(home), seed=None, stages=(stage,), source=str(path))


def estimate_recipe(
    recipe: Recipe,
    *,
    seconds: float,
    only: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    probe: Probe = probe,
) -> list[StageEstimate]:
    """An estimate of every stage that trains, or of one; each is tried for about so many seconds, 0 for none.

    Nothing is written into the recipe's directory. Raises ConfigError where `only` is no stage.
    """
    found = []
    if only is not None:
        recipe.stage(only)
    with tempfile.TemporaryDirectory(prefix="posttrain-doctor-") as scratch:
        for link in links(recipe, Path(scratch)):
            if link.trains and only in (None, link.stage.name):
                if seconds and not link.missing and not link.finished:
                    say(f"{link.stage.name}: trying a few steps ...")
                found.append(_estimate(link, recipe, seconds, probe))
    return found


def _estimate(link: Link, recipe: Recipe, seconds: float, probe: Probe) -> StageEstimate:
    stage = link.stage
    if link.finished:
        return StageEstimate(stage=stage.name, method=stage.method, status="finished", why="it would not run again")
    why = _missing(link)
    if "model" in link.missing:
        return StageEstimate(stage=stage.name, method=stage.method, status="not estimated", notes=link.notes, why=why)
    try:
        events = probe(stage.method, link.fields, seconds=0.0 if why else seconds)
    except PosttrainError as error:
        events = [{"event": "error", "text": str(error)}]
    made = from_events(events, stage=stage.name, method=stage.method, notes=(*link.notes, *_processes()))
    if why:
        made = replace(made, why=why)
    free = free_disk(Path(recipe.output_dir))
    made = replace(made, disk={**made.disk, "free": free} if made.disk else {})
    return replace(made, advice=advice(made, link.fields.to_dict(), free_disk=free))


def _missing(link: Link) -> str:
    """The sentence about what a stage refers to that is not there; empty where all of it is."""
    for name, reference in link.missing.items():
        before = reference.strip("${}").partition(".")[0]
        return (
            f"{name} is {reference}, which stage {before!r} has not written yet: run `posttrain run` with --only "
            f"{before}, and ask again"
        )
    return ""


def _processes() -> tuple[str, ...]:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return ("estimated for one process",) if several else ()
