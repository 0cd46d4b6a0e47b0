"""What became of prompts and of the answers to them, counted for a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from posttrain.curation.candidates import Answered, Refused
from posttrain.curation.card import EXAMPLES, Card
from posttrain.curation.journal import Journal
from posttrain.curation.output import FAILED
from posttrain.curation.provenance import place
from posttrain.curation.rows import Broken, Row
from posttrain.curation.sinks import Sink


class Funnel:
    """First prompts: read, understood, answered. Then, step by step, what a step drops and the next does not see.

    `failed` counts prompts that another run of the command may do better with.
    """

    def __init__(self, card: Card, journal: Journal) -> None:
        self.card, self.journal = card, journal
        self.rows = self.answers = self.answered = self.failed = 0
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def arrived(self, item: Answered | Refused, sink: Sink) -> Answered | None:
        """The prompt with its answers; None for a row that has none, which goes to the rejects."""
        self.rows += 1
        if isinstance(item, Refused):
            self.refused[item.step] += 1
            self._example(item.step, f"{_where(item.row)}: {item.reason}")
            sink.reject(item.row, step=item.step, reason=item.reason, field=item.field)
            return None
        if not item.answers:
            self.failed += 1
            self.refused["answer"] += 1
            self._example("answer", f"{item.ask.place}: {item.failure}")
            sink.reject(item.ask.row, step="answer", reason=item.failure)
            return None
        self.answered += 1
        self.answers += len(item.answers)
        return item

    def drop(self, step: str, example: str, count: int = 1) -> None:
        """Counts answers (or prompts) that a step leaves out."""
        self.dropped[step] += count
        self._example(step, example)

    def finish(self, steps: Sequence[str], *, unit: str = "answers", start: int | None = None) -> None:
        """Writes the steps into the card, and what the answers cost. `start` is what the first step saw."""
        left = self.rows
        for name in ("read", "prompt", "answer"):
            self.card.step(name, left, left - self.refused[name], self.examples.get(name, ()), of="prompts")
            left -= self.refused[name]
        left = self.answers if start is None else start
        for name in steps:
            self.card.step(name, left, left - self.dropped[name], self.examples.get(name, ()), of=unit)
            left -= self.dropped[name]
        self.card.counts |= {
            "prompts answered": self.answered, "answers": self.answers, FAILED: self.failed,
            **{name.replace("_", " "): value for name, value in self.journal.spent.items()},
        }  # fmt: skip

    def _example(self, step: str, text: str) -> None:
        shown = self.examples.setdefault(step, [])
        if len(shown) < EXAMPLES:
            shown.append(text)


def _where(row: Row | Broken) -> str:
    return row.place if isinstance(row, Broken) else place(row)
