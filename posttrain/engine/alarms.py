"""Alarms: what a run's metrics say is going wrong, by name and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One thing that is going wrong, and what can be done."""

    name: str
    text: str


Watch = Callable[[Sequence[Mapping[str, Any]]], Sequence[Alarm]]
"""Reads the log history, oldest first, after a new entry, and names what is wrong now. It keeps nothing itself."""
