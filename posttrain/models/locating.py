"""Where a model's name leads: a directory on this machine, or a name on the hub; and what is wrong when nowhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from posttrain.errors import ModelError, nearest

WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def local_directory(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The directory the name stands for, or None for a name on the hub (`organisation/model`).

    Raises ModelError for a path that is missing, with the nearest directory, and for a file.
    """
    name = os.fspath(name_or_path)
    if not name.strip():
        raise ModelError("the model's name is empty. Give a directory or a name such as 'Qwen/Qwen3-0.6B'.")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelError(
            f"the model {name!r} is a file. Give the directory it lies in, with config.json, the weights and the"
            " tokenizer's files beside it."
        )
    parts = path.parts
    looks_like_path = (
        name.startswith((".", "~", "/"))
        or path.is_absolute()
        or "\\" in name
        or name.endswith("/")
        or len(parts) > 2
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )
    if looks_like_path:
        raise ModelError(f"no directory {name!r}{near_directory(path)}. {_what_a_model_is()}")
    return None


def near_directory(path: Path) -> str:
    """A hint naming the directory that was probably meant, or what lies in the first parent that exists."""
    parent = path.parent
    missing = path.name
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent.name, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    except PermissionError:
        return f"; {str(parent)!r} may not be read"
    guess = nearest(missing, names)
    if guess:
        return f": {str(parent)!r} has no {missing!r}{guess}"
    if str(parent) == ".":
        return ""
    shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    return f": in {str(parent)!r} there is {shown or 'no directory'}"


def check_model_directory(directory: Path) -> None:
    """Raises ModelError unless the directory holds a configuration and weights."""
    names = {entry.name for entry in directory.iterdir()}
    if "config.json" not in names:
        inside = sorted(
            entry.name
            for entry in directory.iterdir()
            if entry.is_dir() and ((entry / "config.json").exists() or (entry / "adapter_config.json").exists())
        )
        hint = f" One of these in it may be meant: {', '.join(inside[-5:])}." if inside else ""
        held = ", ".join(sorted(names)[:8]) or "nothing"
        raise ModelError(
            f"{str(directory)!r} is no model directory: it has no config.json (it holds {held}).{hint}"
            f" {_what_a_model_is()}"
        )
    if not any(name.endswith(WEIGHTS) for name in names):
        raise ModelError(
            f"{str(directory)!r} has a config.json but no weights (model.safetensors). The download or save that"
            " made it was probably not finished: repeat it."
        )


def has_tokenizer(directory: Path) -> bool:
    """Whether a tokenizer's vocabulary lies in the directory."""
    return any(
        entry.name in VOCABULARIES or entry.name.endswith((".tiktoken", ".spm", ".bpe.model"))
        for entry in directory.iterdir()
    )


def read_json(path: Path) -> dict[str, Any]:
    """The file's JSON object. Raises ModelError where it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{str(path)!r} is not valid JSON ({error}). Copy or download the file again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object. Copy or download the file again.")
    return content


def _what_a_model_is() -> str:
    return (
        "A model is a directory with config.json, model.safetensors and a tokenizer, or a name such as"
        " 'Qwen/Qwen3-0.6B'."
    )
