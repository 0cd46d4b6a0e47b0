"""Converting: the rows of an input are told by the first of them, and each is written anew or rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal

from posttrain.curation.card import Card
from posttrain.curation.conversion.parts import as_messages
from posttrain.curation.conversion.record import KINDS, Record
from posttrain.curation.conversion.shapes import TREE, Shape, tell, tree_shape
from posttrain.curation.conversion.targets import TARGETS, USUAL, carried, unambiguous
from posttrain.curation.kinds import same_kind, stream
from posttrain.curation.provenance import noted
from posttrain.curation.rows import PROVENANCE, Broken, Row
from posttrain.data.formats import READ_BY
from posttrain.errors import ConfigError, DataError

LOOKED_AT = 100  # rows that tell the format
STEP = "convert"
TreePairs = Literal["best-worst", "every"]
Result = tuple[Row | Broken, list[Row], str]  # the row that was read, what it became, or else why nothing


@dataclass(kw_only=True)
class Converter:
    """Rows into rows of the format `to`, None for what a trainer reads of their kind.

    `conversational` makes messages of prompts and answers that are text; `tree_pairs` says which replies of a tree are
    compared; `strict` raises DataError for the first row that cannot be understood. `sentences` says what each input
    was read as, and what is lost.
    """

    to: str | None = None
    conversational: bool = False
    tree_pairs: TreePairs = "best-worst"
    strict: bool = False
    sentences: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # column -> rows
    written: dict[str, str] = field(default_factory=dict)  # input -> the format it is written in

    def __post_init__(self) -> None:
        if self.to is not None and self.to not in TARGETS:
            raise ConfigError(f"to={self.to!r}: rows are written as {', '.join(TARGETS)}")

    def convert(self, rows: Iterable[Row | Broken], name: str) -> Iterator[Result]:
        """Every row of an input with what it became, in order.

        Raises DataError where no format is known by its rows, ConfigError where it cannot be written as `to`.
        """
        waiting = iter(rows)
        first = list(islice(waiting, LOOKED_AT))
        whole = [row for row in first if not isinstance(row, Broken)]
        shape = tell(whole)
        if shape is None:
            if whole:
                raise DataError(f"{name}: {_unknown(whole[0])}")
            yield from ((row, [], "") for row in chain(first, waiting))
            return
        if shape is TREE:
            shape = tree_shape(self.to, every=self.tree_pairs == "every")
        to = self._target(shape, whole[0], name)
        for row in chain(first, waiting):
            if isinstance(row, Broken):
                yield row, [], ""
                continue
            made, reason = self._made(row, shape, to)
            yield row, made, reason

    def notes(self) -> list[str]:
        """What was read as what, what is lost, and which columns were left out, a sentence each."""
        lost = [
            f"The column {column!r} of {rows:,} rows is left out: it would be read as part of the new format."
            for column, rows in sorted(self.left_out.items())
        ]
        return [*self.sentences, *lost]

    def _target(self, shape: Shape, row: Row, name: str) -> str:
        """The format to write, with what is said of it."""
        is_text = _is_text(shape, row)
        to = self.to or ("prompt-completion" if is_text and shape.kind == "demonstration" else USUAL[shape.kind])
        takes = TARGETS[to].takes
        if shape.kind not in takes:
            able = ", ".join(name for name, target in TARGETS.items() if shape.kind in target.takes)
            raise ConfigError(
                f"{name}: {shape.sentence}: {KINDS[shape.kind]}, which cannot be written as {to}; possible are {able}"
            )
        if to == "text" and not is_text:
            raise ConfigError(
                f"{name}: {shape.sentence}, and the text of a conversation is made by a model's chat template; "
                "write messages, which training renders with it"
            )
        for other, format in self.written.items():
            if format != to:
                raise ConfigError(f"{name} would be written as {to}, {other} as {format}; say which with to=")
        self.written[name] = to
        loss = takes[shape.kind]
        self.sentences.append(f"{name}: {shape.sentence}; written as {to}" + (f"; {loss}." if loss else "."))
        return to

    def _made(self, row: Row, shape: Shape, to: str) -> tuple[list[Row], str]:
        """What becomes of a row, or why nothing does."""
        try:
            records = shape.records(row)
        except DataError as error:
            if self.strict:
                place = row[PROVENANCE]
                raise DataError(f"{place['source']}:{place['line']}: {error}") from None
            return [], str(error)
        try:
            return self._written(row, records, to), ""
        except DataError as error:
            return [], str(error)

    def _written(self, row: Row, records: Sequence[Record], to: str) -> list[Row]:
        made = []
        for record in records:
            columns, lost = carried(record.columns, to)
            self.left_out.update(lost)
            for new in TARGETS[to].write(_chat(record) if self.conversational else record):
                tools = {"tools": list(record.tools)} if record.tools and "tools" not in new else {}
                if tools and "tools" not in TARGETS[to].columns:
                    raise DataError(f"has tools, which {to} cannot hold; write messages")
                new = {**unambiguous(new), **tools, **{n: v for n, v in columns.items() if n not in new}}
                made.append(noted({**new, PROVENANCE: row[PROVENANCE]}, **record.notes))
        return made


def convert(
    data: Any, *, to: str | None = None, conversational: bool = False, tree_pairs: TreePairs = "best-worst"
) -> tuple[Any, Card]:
    """(rows in another format, card), the rows as a Dataset where one was given; see `posttrain data convert`.

    Raises DataError where the format of the rows is not known, ConfigError where it cannot be written as `to`.
    """
    converter = Converter(to=to, conversational=conversational, tree_pairs=tree_pairs)
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    rejected: list[str] = []
    for read, made, reason in converter.convert(stream(data), "dataset"):
        counts["read"] += 1
        rows += made
        if not made:
            counts["rejected"] += 1
            rejected.append(f"{read.line}: {read.reason}" if isinstance(read, Broken) else reason)
    card = Card(command="convert", settings={"to": to, "conversational": conversational, "tree_pairs": tree_pairs})
    card.step(STEP, counts["read"], counts["read"] - counts["rejected"], rejected, written=len(rows))
    card.notes += converter.notes()
    return same_kind(rows, data), card


def _is_text(shape: Shape, row: Row) -> bool:
    """Whether the answers are text, not messages, as this row has them."""
    try:
        return isinstance(shape.records(row)[0].completions[0], str)
    except (DataError, IndexError):
        return False


def _chat(record: Record) -> Record:
    """The record with messages for its texts."""
    if record.kind == "text":
        return record
    prompt = None if record.prompt is None else as_messages(record.prompt, "user")
    completions = tuple(as_messages(completion, "assistant") for completion in record.completions)
    return replace(record, prompt=prompt, completions=completions)


def _unknown(row: Row) -> str:
    columns = ", ".join(name for name in row if name != PROVENANCE) or "none"
    return (
        f"the columns {columns} are of no format that is known. Read are {READ_BY['SFT']}; {READ_BY['DPO']}; an answer "
        "with 'label' true or false; 'prompt'; 'instruction' and 'instances'; trees of messages. Rename the columns."
    )


__all__: Sequence[str] = ["LOOKED_AT", "STEP", "Converter", "convert"]
