"""What a run measures: sums between two logs, and the file that keeps them all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

FILE = "metrics.jsonl"


class Meter:
    """Sums and counts until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        for name, (amount, count) in metrics.items():
            held = self._sums.setdefault(name, [0.0, 0.0])
            held[0] += float(amount)
            held[1] += float(count)

    def means(self) -> dict[str, float]:
        """Each metric's mean so far; the meter is empty afterwards."""
        means = {name: amount / count for name, (amount, count) in self._sums.items() if count}
        self._sums = {}
        return means

    def state_dict(self) -> dict[str, list[float]]:
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        self._sums = {name: list(pair) for name, pair in state.items()}


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, written at once."""

    def __init__(self, directory: Path, *, after_step: int | None) -> None:
        """Starts a new file, or keeps the lines up to `after_step`, but for a summary, when a run is resumed there."""
        self._path = directory / FILE
        kept = ""
        if after_step is not None and self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = "".join(line + "\n" for line in lines if _step(line) <= after_step and '"train_runtime"' not in line)
        aside = self._path.with_suffix(".partial")
        aside.write_text(kept)
        os.replace(aside, self._path)

    def write(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _step(line: str) -> float:
    """The step of a line; a last line that a crash cut short counts as never written."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
