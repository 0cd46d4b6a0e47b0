"""Reading what a run left, also while it is being written: what is not whole is as good as absent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def read_json(path: Path) -> Any:
    """What the file holds, or None where there is none or it is not whole."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """The same for a file that holds an object; empty where it does not."""
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines; a line that is broken off or damaged is passed over."""
    try:
        return list(parse_lines(path.read_bytes()))
    except OSError:
        return []


def parse_lines(text: bytes) -> Iterator[dict[str, Any]]:
    """The objects among the lines of a text."""
    for line in text.split(b"\n"):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def read_text(path: Path) -> str:
    """The file's text, or an empty one; bytes that are no UTF-8 are replaced."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, or an empty one."""
    try:
        found = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None
