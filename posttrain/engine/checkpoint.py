"""Checkpoints that are whole or absent: written aside, flushed to the disk, renamed.

A checkpoint is a directory `checkpoint-STEP`: what the model's writer puts there, `training_state.pt` (optimiser,
schedule, random states, source: tensors and plain values only, read with `weights_only=True`) and
`trainer_state.json` as transformers writes it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import CheckpointError

STATE_FILE = "training_state.pt"
LOG_FILE = "trainer_state.json"
# by a run, beside checkpoints
LEFT = ("metrics.jsonl", "samples.jsonl", "nonfinite", "evaluation", "gate.json", "trackers.json", "runs")
_NAME = re.compile(r"checkpoint-(\d+)")


def write_whole(directory: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a directory beside `directory` and puts it in its place when everything is on the disk."""
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    for path in [*aside.rglob("*"), aside]:
        _flush(path)
    if directory.exists():
        old = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        aside.rename(directory)
        shutil.rmtree(old)
    else:
        aside.rename(directory)
    _flush(directory.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(
    output_dir: Path,
    step: int,
    *,
    write_model: Callable[[Path], None],
    state: Mapping[str, Any] | None,
    log: Mapping[str, Any],
    keep: int | None,
    best: str | Path | None = None,
) -> Path:
    """Writes `output_dir/checkpoint-STEP` and removes the oldest beyond `keep`, but never the `best`.

    `state=None` cannot be resumed.
    """
    directory = output_dir / f"checkpoint-{step}"

    def write(aside: Path) -> None:
        write_model(aside)
        (aside / LOG_FILE).write_text(json.dumps(log, indent=1, sort_keys=True) + "\n")
        if state is not None:
            torch.save(dict(state), aside / STATE_FILE)

    write_whole(directory, write)
    if keep is not None:
        held, needed = checkpoints(output_dir), {directory.name, *([] if best is None else [Path(best).name])}
        spare = [old for old in held if old.name not in needed]
        for old in spare[: max(0, len(held) - max(keep, len(needed)))]:
            shutil.rmtree(old)
    return directory


def keep_only(output_dir: Path, kept: Path) -> None:
    """Removes every checkpoint of the run but this one."""
    for path in checkpoints(output_dir):
        if path.name != kept.name:
            shutil.rmtree(path)


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [(int(m[1]), path) for path in output_dir.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def find_checkpoint(output_dir: Path, which: bool | str) -> Path:
    """The checkpoint that `resume_from_checkpoint` names: the last one (True) or a path."""
    if which is True:
        found = checkpoints(output_dir)
        if not found:
            raise CheckpointError(
                f"resume_from_checkpoint=True, but {output_dir} holds no checkpoint. Start without it, or give the "
                "output_dir of the run that is to go on."
            )
        return found[-1]
    path = Path(str(which))
    if not (path / STATE_FILE).is_file():
        known = ", ".join(str(p) for p in checkpoints(output_dir)) or "none"
        reason = "does not exist" if not path.exists() else f"has no {STATE_FILE}"
        raise CheckpointError(
            f"resume_from_checkpoint={str(which)!r}: it {reason}, so nothing can be resumed from it. "
            f"Checkpoints in {output_dir}: {known}."
        )
    return path


def set_aside(output_dir: Path) -> Path | None:
    """Moves what an earlier run left into `earlier-N`, so that nothing is lost; None if there was nothing."""
    output_dir.mkdir(parents=True, exist_ok=True)
    left = [*checkpoints(output_dir), *(output_dir / name for name in LEFT)]
    left = [path for path in left if path.exists()]
    if not left:
        return None
    number = 1 + sum(1 for _ in output_dir.glob("earlier-*"))
    target = output_dir / f"earlier-{number}"
    target.mkdir()
    for path in left:
        path.rename(target / path.name)
    return target


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The training state of a checkpoint, on the CPU."""
    file = checkpoint / STATE_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{checkpoint} has no {STATE_FILE}: it was saved with save_only_model=True and cannot be resumed. "
            "Use it as the model of a new run."
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} cannot be read: it is damaged, or carries code, which is never run ({str(error).splitlines()[0]})"
        ) from error
