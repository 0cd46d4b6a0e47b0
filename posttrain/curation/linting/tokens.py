"""What a model's tokenizer and template make of the rows: lengths, what is cut, what is trained, where answers stop."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.curation.linting.scan import Trouble
from posttrain.data.formats import Example
from posttrain.data.loading import Rows
from posttrain.data.rendering import Renderer
from posttrain.data.report import DataReport
from posttrain.data.trees import CHUNK, TreeSet, preference_trees, sft_trees
from posttrain.errors import DataError
from posttrain.types import Segment


@dataclass(kw_only=True)
class Tokens:
    """The tokens of the rows, counted as the trainers would see them."""

    rows: int = 0
    tokens: int = 0
    trained: int = 0
    lengths: array[int] = field(default_factory=lambda: array("I"))  # of whole sequences
    cut: Trouble = field(default_factory=Trouble)
    untrained: Trouble = field(default_factory=Trouble)  # no trained token, whole or within max_length
    refused: Trouble = field(default_factory=Trouble)  # by the chat template
    spans: int = 0
    stopped: int = 0  # spans whose last token ends an answer
    stops: dict[int, int] = field(default_factory=dict)  # token -> spans that end with it
    stopless: str = ""  # why no answer can end, where that is so
    notes: set[str] = field(default_factory=set)
    example: DataReport | None = None


class TokenScan:
    """Counts tokens of rows as they come by, some at a time."""

    def __init__(self, tokenizer: Any, *, max_length: int | None) -> None:
        self.found = Tokens()
        self._tokenizer, self._max_length = tokenizer, max_length
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._kind = ""

    def add(self, place: str, columns: Mapping[str, Any], example: Example) -> None:
        """Takes a row; rows of one kind are rendered together."""
        kind = f"{len(example.completions)} {' '.join(columns)}"
        if kind != self._kind or len(self._waiting) == CHUNK:
            self.flush()
            self._kind = kind
        self._waiting.append((place, columns))

    def flush(self) -> None:
        """Renders what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting or self.found.stopless:
            return
        try:
            self._render(waiting)
        except DataError:
            for one in waiting:  # one by one, to find out which
                try:
                    self._render([one])
                except DataError as error:
                    self._refuse(one[0], error)

    def _render(self, waiting: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        paired = self._kind.startswith("2")
        make = preference_trees if paired else sft_trees
        rows = Rows(name="rows", records=[columns for _, columns in waiting])
        trees: TreeSet = make(rows, self._tokenizer, max_length=None)
        self.found.rows += len(waiting)
        self.found.notes |= set(trees.report.notes)
        self.found.example = self.found.example or trees.report
        self.found.tokens += trees.report.tokens
        self.found.trained += trees.report.trained_tokens
        kept = set(trees.rows)
        for number, (place, _) in enumerate(waiting):
            if number not in kept:
                self.found.untrained.add(place, next(iter(trees.report.dropped), ""))
        long: dict[int, bool] = {}  # row -> some trained token is left
        ends = self._ends(self._kind)
        for number, tree in zip(trees.rows, trees.trees):
            for length, first, last_tokens in _leaves(tree, 0):
                self.found.lengths.append(length)
                if self._max_length is not None and length > self._max_length:
                    left = first < self._max_length
                    # A pair needs both of its sides, a conversation one of its turns
                    long[number] = long.get(number, paired) and left if paired else long.get(number, False) or left
                for token in last_tokens:
                    self.found.spans += 1
                    if token in ends:
                        self.found.stopped += 1
                        self.found.stops[token] = self.found.stops.get(token, 0) + 1
        for number, left in long.items():
            place = waiting[number][0]
            self.found.cut.add(place)
            if not left:
                self.found.untrained.add(place, "no trained token within max_length")

    def _ends(self, kind: str) -> frozenset[int]:
        eos = self._tokenizer.eos_token_id
        texts = frozenset() if eos is None else frozenset([eos])
        if not self._tokenizer.chat_template:
            return texts
        try:
            return Renderer(self._tokenizer).ends | texts
        except DataError:
            return texts

    def _refuse(self, place: str, error: DataError) -> None:
        said = str(error)
        self.found.rows += 1
        if "no special token after an assistant's answer" in said or "has no eos_token" in said:
            self.found.stopless = said
        elif "no row is left to train on" in said:
            reason = said.partition("Dropped: ")[2].partition(" (row")[0].partition(" ")[2]
            self.found.untrained.add(place, reason)
        else:
            self.found.refused.add(place, said.removeprefix("row 0 of rows: "))


def _leaves(segment: Segment, before: int) -> Iterator[tuple[int, int, list[int]]]:
    """Of each leaf the length of its path, where on it the first trained token is, and the last token of each span."""
    length = before + len(segment.tokens)
    if not segment.children:
        ends = [segment.tokens[end - 1] for _, end in segment.trained]
        yield length, before + segment.trained[0][0], ends
    for child in segment.children:
        yield from _leaves(child, length)
