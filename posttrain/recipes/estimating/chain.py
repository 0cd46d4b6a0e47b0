"""The stages of a recipe with their references filled in, by what is there or by what stands for it until it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from posttrain.config.base import Config
from posttrain.config.recipe import Recipe, Stage
from posttrain.recipes.methods import StageRun, run_method
from posttrain.recipes.pipeline import StageRecord
from posttrain.recipes.stage_key import stage_key

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A stage as it can be looked at now."""

    stage: Stage
    fields: Config
    finished: bool = False  # it ran with these very fields and inputs, and would not run again
    notes: tuple[str, ...] = ()  # what stands for what does not exist yet
    missing: Mapping[str, str] = field(default_factory=dict)  # field -> the reference that nothing can stand for

    @property
    def trains(self) -> bool:
        """Whether it is a training stage."""
        return hasattr(type(self.fields), "training")


def links(recipe: Recipe, scratch: Path) -> list[Link]:
    """The stages in order. Of one that has not run, a model is stood for by the one it starts from.

    What is quickly made (the embedded world, converted rows) is made in `scratch`.
    """
    outputs: dict[str, Mapping[str, str]] = {}
    stands_for: dict[str, str] = {}  # "sft.model" -> the sentence about it
    found = []
    finished: set[str] = set()
    for stage in recipe.stages:
        fields = stage.resolve(outputs, **recipe.defaults(stage))
        names = [f"{name}.{output}" for name, output in stage.references()]
        missing = {name: text for name, value in stage.values.items() if (text := _unresolved(value, outputs))}
        home = Path(recipe.output_dir) / stage.name
        record = StageRecord.read(home)
        whole = record is not None and record.whole(home)
        done = False
        if record is not None and whole:
            outputs[stage.name] = dict(record.outputs)
            done = all(name.partition(".")[0] in finished for name in names) and record.key == stage_key(
                stage.method, fields, stage.shape.reads
            )
            if done:
                finished.add(stage.name)
            else:
                stands_for |= {
                    f"{stage.name}.{output}": f"stage {stage.name!r} would run anew; until then its last "
                    f"{output} stands for it"
                    for output in record.outputs
                }
        else:
            outputs[stage.name], said = _stand_in(stage, fields, scratch / stage.name, missing)
            stands_for |= {f"{stage.name}.{output}": sentence for output, sentence in said.items()}
        notes = tuple(stands_for[name] for name in dict.fromkeys(names) if name in stands_for)
        found.append(Link(stage=stage, fields=fields, finished=done, notes=notes, missing=missing))
    return found


def _unresolved(value: Any, outputs: Mapping[str, Mapping[str, str]]) -> str:
    """The first reference in the value that no output stands for; "" where there is none."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            name, _, output = match[1].strip().partition(".")
            if output not in outputs.get(name, {}):
                return match[0]
        return ""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return next((text for part in parts if (text := _unresolved(part, outputs))), "")


def _stand_in(
    stage: Stage, fields: Config, directory: Path, missing: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Outputs that can stand for those of a stage that has not run, and a sentence for each that is not the same."""
    if (make := _MADE.get(stage.method)) is not None:
        return ({}, {}) if missing else (make(fields, directory), {})
    # a reward model has another head than the model it starts from, and is asked for scores
    if hasattr(type(fields), "training") and stage.method != "reward" and "model" not in missing:
        model = str(cast(Any, fields).model)
        sentence = f"the model of stage {stage.name!r} does not exist yet: {model}, from which it starts, stands for it"
        return {"model": model}, {"model": sentence}
    return {}, {}


def _run(method: str) -> Callable[[Config, Path], dict[str, str]]:
    def make(fields: Config, directory: Path) -> dict[str, str]:
        directory.mkdir(parents=True, exist_ok=True)
        run = StageRun(fields=fields, directory=directory, say=lambda text: None)
        return dict(run_method(method, run).outputs)

    return make


def _as_it_came(fields: Config, directory: Path) -> dict[str, str]:
    """The data that a stage hands on unchanged."""
    inputs = cast(Any, fields).inputs
    return {"data": inputs[0]} if len(inputs) == 1 else {}


_MADE: Mapping[str, Callable[[Config, Path], dict[str, str]]] = {
    "embedded": _run("embedded"),
    "convert": _run("convert"),
    "lint": _as_it_came,
}
