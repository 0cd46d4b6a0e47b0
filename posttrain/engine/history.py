"""What an alarm reads of a run's log history: means over a few entries, the first ones against the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.engine.alarms import Alarm

WINDOW = 3  # log entries that are looked at together, so that one odd step raises nothing
AGAIN_AFTER = 10  # log entries until an alarm that goes on is raised again

Entries = Sequence[Mapping[str, Any]]


def mean(entries: Entries, name: str) -> float | None:
    """The mean over entries that have it."""
    values = [float(entry[name]) for entry in entries if name in entry]
    return sum(values) / len(values) if values else None


def first_and_last(entries: Entries, name: str) -> tuple[float, float] | None:
    """The means of the first and of the last few entries, once these are different ones."""
    having = [entry for entry in entries if name in entry]
    if len(having) < 2 * WINDOW:
        return None
    first, last = mean(having[:WINDOW], name), mean(having[-WINDOW:], name)
    return None if first is None or last is None else (first, last)


def raised(history: Entries, entries: Entries, looks: Mapping[str, Callable[[], str | None]]) -> list[Alarm]:
    """The alarms that have a text now and were not raised within the last few of the `entries`."""
    if not entries:
        return []
    since = entries[-AGAIN_AFTER:][0].get("step", 0)
    said = {entry["alarm"] for entry in history if "alarm" in entry and entry.get("step", 0) >= since}
    texts = {name: look() for name, look in looks.items() if name not in said}
    return [Alarm(name=name, text=text) for name, text in texts.items() if text]
