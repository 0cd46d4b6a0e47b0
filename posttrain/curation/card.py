"""A card: what became of the rows of a command, step by step, and what the command was."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

EXAMPLES = 3  # of what a step removed
EXAMPLE_LENGTH = 300  # characters


@dataclass(frozen=True, kw_only=True)
class Step:
    """A line of the funnel."""

    name: str
    rows_in: int
    rows_out: int
    examples: Sequence[str] = ()  # of what was removed
    numbers: Mapping[str, Any] = field(default_factory=dict)  # what else the step counted


@dataclass(kw_only=True)
class Card:
    """Counts, funnel, examples, settings and inputs of a command that made data."""

    command: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str | None] = field(default_factory=dict)  # name -> SHA-256
    steps: list[Step] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)  # file, rows, SHA-256
    seconds: float = 0.0

    def step(self, name: str, rows_in: int, rows_out: int, examples: Sequence[Any] = (), **numbers: Any) -> None:
        """Adds a line to the funnel; a step of the same name is replaced."""
        line = Step(
            name=name, rows_in=rows_in, rows_out=rows_out, examples=[_short(e) for e in examples[:EXAMPLES]],
            numbers=numbers,
        )  # fmt: skip
        at = next((index for index, step in enumerate(self.steps) if step.name == name), len(self.steps))
        self.steps[at : at + 1] = [line]

    def text(self) -> str:
        """The funnel as a table, with what was counted and noted."""
        rows = [("step", "in", "out", "removed", "")]
        for step in self.steps:
            said = ", ".join(f"{name} {_number(value)}" for name, value in step.numbers.items())
            removed = step.rows_in - step.rows_out
            rows.append((step.name, f"{step.rows_in:,}", f"{step.rows_out:,}", f"{removed:,}", said))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([name.ljust(widths[0]), *(v.rjust(w) for v, w in zip(numbers, widths[1:])), said]).rstrip()
            for name, *numbers, said in rows
        ]
        counted = ", ".join(f"{name} {_number(value)}" for name, value in self.counts.items())
        return "\n".join([*(lines if self.steps else []), *([counted] if counted else []), *self.notes])

    def picture(self) -> str:
        """The funnel as an SVG: a bar for the rows that each step left."""
        shown = [("", self.steps[0].rows_in), *((s.name, s.rows_out) for s in self.steps)] if self.steps else []
        most = max((rows for _, rows in shown), default=0) or 1
        bars = []
        for index, (name, rows) in enumerate(shown):
            y, width = 24 * index, 360 * rows / most
            bars.append(
                f'<text x="150" y="{y + 16}" text-anchor="end">{html.escape(name or "rows")}</text>'
                f'<rect x="160" y="{y + 4}" width="{width:.1f}" height="16" fill="#4878a8"/>'
                f'<text x="{166 + width:.1f}" y="{y + 16}">{rows:,}</text>'
            )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 620 {24 * len(shown)}" '
            f'font-family="sans-serif" font-size="12" fill="currentColor">{"".join(bars)}</svg>'
        )

    def as_dict(self) -> dict[str, Any]:
        """The card as plain values for JSON."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Writes the card as JSON, whole or not at all."""
        aside = path.with_name(path.name + ".new")
        written = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, default=str)
        aside.write_text(written + "\n", encoding="utf-8", errors="backslashreplace")
        aside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Card | None:
        """The card in a file, or None where there is no readable one."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**stored, "steps": [Step(**step) for step in stored["steps"]]})
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _short(example: Any) -> str:
    text = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False, default=str)
    return text if len(text) <= EXAMPLE_LENGTH else text[:EXAMPLE_LENGTH] + " ..."


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
