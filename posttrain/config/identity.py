"""What lies under a path, as a hash: whether a model or a file is still what it was."""

from __future__ import annotations

import glob
import hashlib
import re
from pathlib import Path
from typing import Any

_READ_WHOLE = 32 * 2**20  # bytes; a larger file is known by its size and time of change


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
    """The paths that a field names: one or several, `file.py:function` as the file, `0.7:a.jsonl` and {path} too."""
    named = [
        item.get("path") if isinstance(item, dict) else item for item in (value if isinstance(value, list) else [value])
    ]
    bare = [re.sub(r"^[\d.]+:(?=.)|(?<=\.py):\w+$", "", name) for name in named if isinstance(name, str)]
    return [hit for name in bare for hit in (sorted(glob.glob(name)) if set("*?") & set(name) else ()) or [name]]


def _file_identity(file: Path) -> str:
    stat = file.stat()
    if stat.st_size > _READ_WHOLE:
        return f"{stat.st_size}:{stat.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()
