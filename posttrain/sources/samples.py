"""`samples.jsonl`: every completion of a run with its rewards, written as it is graded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "samples.jsonl"


class SamplesFile:
    """One JSON object a line; readable while the run goes on."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def keep_until(self, step: int) -> None:
        """Leaves out what was sampled after this step: a resumed run samples it again."""
        if not self.path.exists():
            return
        aside = self.path.with_suffix(".partial")
        with self.path.open(encoding="utf-8") as lines, aside.open("w", encoding="utf-8") as kept:
            kept.writelines(line for line in lines if _step(line) <= step)
        os.replace(aside, self.path)

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _step(line: str) -> float:
    """The step of a line; a last line that a crash cut short counts as never written."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
