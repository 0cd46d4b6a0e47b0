"""What a row carries about itself: where it came from, what it was given, what it passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.curation.rows import PROVENANCE, Row


def noted(row: Mapping[str, Any], **entries: Any) -> Row:
    """A new row whose provenance has these entries: mappings are merged, lists appended, other values replaced."""
    notes = dict(row.get(PROVENANCE) or {})
    for name, value in entries.items():
        before = notes.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            notes[name] = {**before, **value}
        elif isinstance(value, list | tuple) and isinstance(before, list | tuple):
            notes[name] = [*before, *value]
        else:
            notes[name] = list(value) if isinstance(value, tuple) else value
    return {**row, PROVENANCE: notes}


def provenance(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's provenance, empty where it has none."""
    return dict(row.get(PROVENANCE) or {})


def place(row: Mapping[str, Any]) -> str:
    """Where a row stands, such as train.jsonl:17."""
    notes = provenance(row)
    return f"{notes.get('source')}:{notes.get('line')}"


def without_provenance(row: Mapping[str, Any]) -> Row:
    """The row's own columns."""
    return {name: value for name, value in row.items() if name != PROVENANCE}
