"""One pass over the rows: formats, broken rows, duplicates, roles, lengths, contradictory pairs, and a sample."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.curation.conversion.shapes import OPENAI_PREFERENCE, SEED, TREE, shape_of
from posttrain.curation.linting.roles import role_problems
from posttrain.curation.linting.sides import Marked, Pair, answer_text, digest, written
from posttrain.curation.rows import PROVENANCE, Broken
from posttrain.data.formats import Example, Format, detect, examples
from posttrain.data.loading import Rows
from posttrain.data.prompts import READ_AS
from posttrain.errors import DataError

PLACES = 5  # kept of each kind of trouble
TEXT_KEPT = 20_000  # characters of a side in the sample
_LINE_BITS = 40

UNPAIRED = "answers marked good or bad"
PROMPTS = "prompts without answers"


@dataclass(kw_only=True)
class Trouble:
    """Rows of one kind of trouble: how many, and where the first are."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str = "") -> None:
        """Counts a row."""
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place)
            self.reasons.append(reason)


@dataclass(kw_only=True)
class Source:
    """An input and how its rows are read."""

    name: str
    format: str = "unknown"
    understood: str = ""
    rows: int = 0
    kind: str = ""  # "preference", "demonstration", "marked", "prompts", or "foreign": nothing trains on it as it is
    form: Format | None = None


class Sample:
    """So many of a stream, each as likely as any other."""

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[Any] = []
        self.seen = 0
        self._size, self._draw = size, random.Random(seed)

    def place(self) -> int | None:
        """Where the next one of the stream belongs, or None if it is passed over."""
        self.seen += 1
        if len(self.kept) < self._size:
            return len(self.kept)
        at = self._draw.randrange(self.seen)
        return at if at < self._size else None

    def put(self, place: int, item: Any) -> None:
        """Keeps it there."""
        self.kept[place : place + 1] = [item]


class Scan:
    """What is learned from each row as it comes by; memory grows by some bytes a row only."""

    def __init__(self, *, sample: int, seed: int) -> None:
        self.sources: dict[str, Source] = {}
        self.rows = 0
        self.broken = Trouble()
        self.empty = Trouble()
        self.duplicates = Trouble()
        self.identical = Trouble()
        self.contradictory = Trouble()
        self.roles: dict[str, Trouble] = {}
        self.role_rows = 0  # rows with any unusual order
        self.conversations = 0  # rows whose roles could be looked at
        self.pairs = 0  # rows of preference data, equal sides included
        self.marked = {True: 0, False: 0}
        self.lengths: dict[str, array[int]] = {}  # characters, by side
        self.sample = Sample(sample, seed)  # Pair or Marked
        self.here = 0  # the number of the row at hand
        self.repeated = False  # it repeats an earlier one
        self._seen: dict[int, int] = {}  # of each row's content, the first row: numbers, since there may be millions
        self._orders: dict[int, int] = {}

    def add(self, source: str, line: int, read: Mapping[str, Any] | Broken) -> tuple[Mapping[str, Any], Example] | None:
        """The row's columns that are read, and the row as understood; None where there is nothing to train on."""
        found = self.sources.setdefault(source, Source(name=source))
        place = f"{source}:{line}"
        self.here, self.repeated = list(self.sources).index(source) << _LINE_BITS | line, False
        self.rows += 1
        found.rows += 1
        if isinstance(read, Broken):
            self.broken.add(place, f"{read.field}: {read.reason}" if read.field else read.reason)
            return None
        row = {name: value for name, value in read.items() if name != PROVENANCE}
        records = Rows(name=source, records=[row], path=source, lines=[0])
        try:
            if not found.kind:
                _recognise(found, row, records)
            if found.kind in ("prompts", "foreign"):
                self._known(digest(repr(row)), place)
                return None
            if found.form is None:
                return None
            label = row.pop("label", None) if found.kind == "marked" else None
            if found.kind == "marked" and not isinstance(label, bool):
                raise DataError(f"'label' is {label!r}, where the first row has true or false")
            example = next(examples(records, found.form))
        except DataError as error:
            self.broken.add(place, str(error).removeprefix(f"{source}:0: "))
            return None
        self._look_at(example, place, label)
        blank = any(not answer_text(completion).strip() for completion in example.completions)
        if blank:
            self.empty.add(place)
            return None
        columns = (*found.form.columns, *found.form.optional, "tools", "chat_template_kwargs")
        return {name: row[name] for name in columns if name in row}, example

    def _look_at(self, example: Example, place: str, label: bool | None) -> None:
        prompt = written(example.prompt)
        sides = [written(completion) for completion in example.completions]
        self._known(digest(prompt, *sides, str(label)), place)
        self._order_of_roles(example, place)
        texts = [answer_text(completion) for completion in example.completions]
        names = ("answer",) if len(texts) == 1 else ("chosen", "rejected")
        for name, text in zip(names, texts):
            self.lengths.setdefault(name, array("I")).append(len(text))
        if len(texts) == 2:
            self.pairs += 1
            if sides[0] == sides[1]:
                self.identical.add(place)
                return
            self._order_of_sides(prompt, sides, place)
            if all(text.strip() for text in texts) and (at := self.sample.place()) is not None:
                chosen, rejected = (text[:TEXT_KEPT] for text in texts)
                key = digest(prompt) if prompt else b""
                self.sample.put(at, Pair(place=place, prompt=key, chosen=chosen, rejected=rejected))
        elif label is not None:
            self.marked[label] += 1
            if texts[0].strip() and (at := self.sample.place()) is not None:
                key, text = _asked(example)
                self.sample.put(at, Marked(place=place, prompt=key, text=text[:TEXT_KEPT], good=label))

    def forget(self) -> None:
        """Gives back the memory of what was seen, when the last row has come by."""
        self._seen.clear()
        self._orders.clear()

    def _known(self, key: bytes, place: str) -> None:
        first = self._seen.setdefault(_short(key), self.here)
        self.repeated = first != self.here
        if self.repeated:
            self.duplicates.add(place, f"repeats {self.place(first)}")

    def _order_of_roles(self, example: Example, place: str) -> None:
        prompt = example.prompt if isinstance(example.prompt, list) else []
        talks = [[*prompt, *completion] for completion in example.completions if isinstance(completion, list)]
        if not talks:
            return
        self.conversations += 1
        problems = {problem for talk in talks for problem in role_problems(talk, answered=True)}
        self.role_rows += bool(problems)
        for problem in problems:
            self.roles.setdefault(problem, Trouble()).add(place)

    def _order_of_sides(self, prompt: str, sides: list[str], place: str) -> None:
        ordered = sides[0] < sides[1]
        first = self._orders.setdefault(_short(digest(prompt, *sorted(sides))), self.here << 1 | ordered)
        if first & 1 != ordered:
            self.contradictory.add(place, f"prefers what {self.place(first >> 1)} rejects")

    def place(self, number: int) -> str:
        """Where the row of this number stands."""
        return f"{list(self.sources)[number >> _LINE_BITS]}:{number & ((1 << _LINE_BITS) - 1)}"


def _short(key: bytes) -> int:
    """64 bits of a hash: among a million rows two are taken for equal with a chance of 3 in 10^8."""
    return int.from_bytes(key[:8])


def _asked(example: Example) -> tuple[bytes, str]:
    """A hash of what a marked answer answers, and the answer: of a conversation the last message."""
    completion = example.completions[0]
    if isinstance(completion, list) and example.prompt is None:
        last = max((i for i, message in enumerate(completion) if message["role"] == "assistant"), default=0)
        return digest(written(completion[:last])), answer_text(completion[last : last + 1])
    return digest(written(example.prompt)), answer_text(completion)


def _recognise(source: Source, row: Mapping[str, Any], records: Rows) -> None:
    """Fills in how the input is read, from a row of it. Raises DataError where nothing reads such columns."""
    shape = shape_of(dict(row))
    if shape in (TREE, SEED, OPENAI_PREFERENCE):
        source.kind, source.format, source.understood = "foreign", shape.name, shape.sentence
        return
    if "chosen" in row and "rejected" in row:
        source.form, source.kind = detect(records, task="DPO"), "preference"
        source.format, source.understood = source.form.name, source.form.sentence
        return
    if isinstance(row.get("label"), bool):
        bare = {name: value for name, value in row.items() if name != "label"}
        source.form = detect(Rows(name=source.name, records=[bare], path=source.name, lines=[0]), task="SFT")
        source.kind, source.format = "marked", f"{source.form.name}, {UNPAIRED}"
        source.understood = f"{source.form.sentence}, which 'label' marks good or bad"
        return
    try:
        source.form, source.kind = detect(records, task="SFT"), "demonstration"
    except DataError:
        prompt = next((column for column in READ_AS if column in row), None)
        if prompt is None:
            raise
        source.kind, source.format = "prompts", PROMPTS
        source.understood = f"{prompt!r} is {READ_AS[prompt]}"
        return
    source.format, source.understood = source.form.name, source.form.sentence
