"""Whether a stage's inputs are still what they were."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.config.base import Config

_READ_WHOLE = 32 * 2**20  # bytes; a larger file is known by its size and time of change

# They change how a run is shown or where it lies, not what it computes.
_NOT_RESULT = ("output_dir", "resume_from_checkpoint", "disable_tqdm", "run_name", "report_to")


def path_identity(name: str) -> str:
    """A hash of what lies under the path, or of the name itself where nothing does (a model of a hub)."""
    path = Path(name).expanduser()
    if not path.exists():
        return hashlib.sha256(name.encode()).hexdigest()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        inside = file.name if file == path else str(file.relative_to(path))
        digest.update(f"{inside}\0{_file_identity(file)}\n".encode())
    return digest.hexdigest()


def read_paths(value: Any) -> list[str]:
    """The paths that a field names: one or several, `file.py:function` as the file."""
    names = value if isinstance(value, list) else [value]
    return [re.sub(r"(?<=\.py):\w+$", "", name) for name in names if isinstance(name, str)]


def stage_key(method: str, fields: Config, reads: tuple[str, ...]) -> dict[str, Any]:
    """What a finished stage is known by: its method, the hash of its fields, and its inputs' identities."""
    values = {k: v for k, v in fields.to_dict().items() if k not in _NOT_RESULT and k not in reads}
    written = json.dumps(values, sort_keys=True, ensure_ascii=False)
    inputs = {name: _identity(value) for name in reads if (value := getattr(fields, name)) is not None}
    return {
        "method": method,
        "fields": hashlib.sha256(written.encode()).hexdigest(),
        "inputs": inputs,
    }


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, what differs between two keys: "its fields", "its train_dataset" ..."""
    before, after = old.get("inputs", {}), new["inputs"]
    said = [f"its {name}" for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if old.get("method") != new["method"] or old.get("fields") != new["fields"]:
        said.insert(0, "its fields")
    return " and ".join(said)


def _identity(value: Any) -> str:
    """A hash of what a field names, with what lies under it."""
    parts = [path_identity(path) for path in read_paths(value)]
    return parts[0] if isinstance(value, str) else hashlib.sha256(f"{value}{parts}".encode()).hexdigest()


def _file_identity(file: Path) -> str:
    stat = file.stat()
    if stat.st_size > _READ_WHOLE:
        return f"{stat.st_size}:{stat.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()
