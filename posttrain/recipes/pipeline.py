"""The runner of recipes: each stage once, an interrupted one resumed, a changed one anew."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.base import Config
from posttrain.config.recipe import Recipe, Stage
from posttrain.errors import ConfigError, DataError, nearest
from posttrain.recipes.methods import StageOutcome, StageRun, run_method
from posttrain.recipes.stage_key import changed, read_paths, stage_key

RECORD = "stage.json"
RECIPE = "recipe.yaml"  # what was run last in a directory, overrides included
_DATA_FILE = re.compile(r"\.(jsonl?|parquet|csv|jinja2?|py|ya?ml)$")


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """A stage's `stage.json`: what it was given, how it ended, what it left."""

    status: str  # "running" or "finished"
    key: Mapping[str, Any]
    outputs: Mapping[str, str]
    summary: Mapping[str, Any]
    time_s: float

    @classmethod
    def read(cls, directory: Path) -> StageRecord | None:
        """The record in a stage's directory, or None where there is no readable one."""
        try:
            stored = json.loads((directory / RECORD).read_text(encoding="utf-8"))
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return None

    def write(self, directory: Path) -> None:
        """Writes the record, whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f"{RECORD}.partial"
        text = json.dumps(dict(vars(self)), indent=2, ensure_ascii=False, default=str)
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(directory / RECORD)

    def whole(self, directory: Path) -> bool:
        """The stage finished and what it left in its directory is still there."""
        inside = [Path(path) for path in self.outputs.values() if Path(path).is_relative_to(directory)]
        return self.status == "finished" and all(path.exists() for path in inside)


def run_recipe(
    recipe: Recipe,
    *,
    only: str | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, StageRecord]:
    """The record of every stage that is finished afterwards, by name.

    A stage whose fields and inputs are those of its `stage.json` is not run again; one that was interrupted
    goes on from its last checkpoint; one that changed runs anew, and what it wrote before is moved aside,
    never deleted. `only` runs a single stage, on what the earlier ones left. `progress` is told what is
    counted, how many are done, and the total.
    Raises ConfigError, DataError: a file that is missing is found before the first stage starts.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"{recipe.source}: a recipe runs in one process, not under torchrun; train a single stage with "
            "torchrun -m posttrain.cli sft (or dpo, grpo)"
        )
    home = Path(recipe.output_dir)
    wanted = recipe.stages if only is None else (recipe.stage(only),)
    _check_files(wanted, recipe)
    records: dict[str, StageRecord] = {}
    home.mkdir(parents=True, exist_ok=True)
    (home / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    if only is not None:
        records = _earlier(recipe, only, home)
    for stage in wanted:
        at = f"[{[s.name for s in recipe.stages].index(stage.name) + 1}/{len(recipe.stages)}] {stage.name}"
        outputs = {name: record.outputs for name, record in records.items()}
        fields = stage.resolve(outputs, **recipe.defaults(stage))
        records[stage.name] = _run_stage(stage, fields, home / stage.name, at, say, progress)
    return records


def _run_stage(
    stage: Stage,
    fields: Config,
    directory: Path,
    at: str,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] | None,
) -> StageRecord:
    key = stage_key(stage.method, fields, stage.shape.reads)
    before = StageRecord.read(directory)
    if before is not None and before.key == key and before.whole(directory):
        say(f"{at}: finished before, kept")
        return before
    resume = False
    if not directory.is_dir() or {path.name for path in directory.iterdir()} <= {RECORD}:
        say(f"{at}: {stage.method}")
    elif before is not None and before.key != key:
        moved = _move_aside(directory)
        say(f"{at}: {changed(before.key, key)} changed since it ran; the old files are now in {moved}")
    elif before is not None:
        resume = "resume_from_checkpoint" in type(fields).model_fields and _has_checkpoint(directory)
        say(f"{at}: {'goes on from its last checkpoint' if resume else 'was not finished, starts again'}")
    else:
        moved = _move_aside(directory)
        say(f"{at}: files that no stage wrote are now in {moved}")
    StageRecord(status="running", key=key, outputs={}, summary={}, time_s=0.0).write(directory)
    started = time.perf_counter()
    run = StageRun(fields=fields, directory=directory, resume=resume, say=say, progress=progress)
    outcome: StageOutcome = run_method(stage.method, run)
    record = StageRecord(
        status="finished",
        key=key,
        outputs=dict(outcome.outputs),
        summary=dict(outcome.summary),
        time_s=round(time.perf_counter() - started, 3),
    )
    record.write(directory)
    return record


def _earlier(recipe: Recipe, only: str, home: Path) -> dict[str, StageRecord]:
    """The records of the stages that `only` refers to. Raises ConfigError where one has not finished."""
    records: dict[str, StageRecord] = {}
    for name, output in recipe.stage(only).references():
        record = StageRecord.read(home / name)
        if record is None or not record.whole(home / name):
            raise ConfigError(
                f"stage {only!r} needs ${{{name}.{output}}}, but {name!r} has not finished in {str(home)!r}; "
                f"run it first with --only {name}, or run the whole recipe"
            )
        records[name] = record
    return records


def _check_files(stages: tuple[Stage, ...], recipe: Recipe) -> None:
    """Raises DataError for an input file that does not exist, unless an earlier stage is to write it."""
    for stage in stages:
        renamed = stage.shape.fields.renamed
        for name, given in stage.values.items():
            if name not in stage.shape.reads and not (
                name in renamed and set(renamed[name].apply(given)) & set(stage.shape.reads)
            ):
                continue
            for value in read_paths(given):
                path = Path(value).expanduser()
                named_as_path = bool(_DATA_FILE.search(value)) or value.startswith(("/", "./", "../", "~"))
                if "${" not in value and named_as_path and not path.exists():
                    around = os.listdir(path.parent) if path.parent.is_dir() else []
                    place = stage.places.get(name, recipe.source)
                    raise DataError(f"{place}: {name}={value!r} does not exist{nearest(path.name, around)}")


def _has_checkpoint(directory: Path) -> bool:
    """A training was interrupted here and can go on."""
    from posttrain.engine.checkpoint import STATE_FILE, checkpoints

    return any((path / STATE_FILE).is_file() for path in checkpoints(directory)[-1:])


def _move_aside(directory: Path) -> Path:
    number = 1
    while (target := directory.with_name(f"{directory.name}.old-{number}")).exists():
        number += 1
    return directory.rename(target)
