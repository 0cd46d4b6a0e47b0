"""What decides the batches of a source, by the names that people are told: a resumed run must have the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.errors import CheckpointError


def require_same(now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming what differs, when the batches would not be those that the run began with."""
    changed = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    if changed:
        raise CheckpointError(
            f"the run cannot be resumed, because it began with another {' and another '.join(changed)}. "
            "Put it back, or start a new run with the checkpoint as its model."
        )
