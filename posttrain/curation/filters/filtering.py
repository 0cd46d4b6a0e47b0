"""Filtering of files into a file, and of rows in memory."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config.curation.filter import FilterCommand, FilterFields
from posttrain.config.identity import path_identity, read_paths
from posttrain.curation.card import EXAMPLES, Card
from posttrain.curation.filters.minhash import bands, found
from posttrain.curation.filters.sifting import all_steps, sift
from posttrain.curation.filters.stores import FileStore, ListStore
from posttrain.curation.filters.weighing import check_named, needs_all, scored, weigh
from posttrain.curation.kinds import same_kind, stream
from posttrain.curation.output import READ, Output, beside
from posttrain.curation.progress import counted
from posttrain.curation.reading import expected_rows
from posttrain.curation.rows import STANDARD_INPUT, Broken, Row, read_stream
from posttrain.curation.sinks import Collected

_COMMAND = "data filter"
_NOT_RESULT = ("inputs", "output", "workers")
_READ = ("decontaminate", "forbidden_words", "tokenizer", "ifd_model", "reward", "embedding_model")


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """What filtering did: the card with the funnel, and each rejected row with the filter and its reason."""

    card: Card
    rejects: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def text(self) -> str:
        """The funnel as a table."""
        return self.card.text()

    def picture(self) -> str:
        """The funnel as an SVG."""
        return self.card.picture()


def filter_rows(rows: Any, **settings: Any) -> tuple[Any, FilterReport]:
    """The rows that pass, as what was given (a datasets.Dataset or a list), and a report.

    `settings` are the fields of `FilterFields`, which are the flags of `posttrain data filter`. A kept row has a
    `_provenance` with the filters it passed and its scores. Raises ConfigError for settings that do not go together.
    """
    fields = FilterFields(**settings)
    sink = Collected(_COMMAND)
    sift(stream(rows), fields, sink, passed=all_steps(fields))
    kept: list[Row] = sink.rows
    if needs_all(fields):
        kept, candidates = [], list(scored(sink.rows, fields))
        for row, verdict in zip(candidates, weigh(ListStore(candidates), fields)):
            if verdict is None:
                kept.append(row)
            else:
                sink.reject(row, step=verdict[0], reason=verdict[1])
    _funnel(sink, fields, len(kept))
    _say(sink.card, fields)
    return same_kind(kept, rows), FilterReport(card=sink.card, rejects=sink.rejects)


def deduplicate(rows: Any, *, near: float | bool | None = True, **settings: Any) -> tuple[Any, FilterReport]:
    """The rows without duplicates, and a report; `near` is the Jaccard similarity of near ones, None for equal ones."""
    return filter_rows(rows, empty=False, formatting=False, near_duplicates=near, **settings)


def decontaminate(rows: Any, against: Sequence[str], **settings: Any) -> tuple[Any, FilterReport]:
    """The rows that hold no question of these evaluation files, and a report."""
    alone = {"empty": False, "formatting": False, "duplicates": False}
    return filter_rows(rows, **{**alone, "decontaminate": list(against), **settings})


def select_diverse(rows: Any, size: int, **settings: Any) -> tuple[Any, FilterReport]:
    """`size` of the rows that differ from each other, and a report."""
    alone = {"empty": False, "formatting": False, "duplicates": False}
    return filter_rows(rows, **{**alone, "select": size, **settings})


def run_filter(command: FilterCommand, arguments: Sequence[str] = ()) -> Output:
    """The output of filtering files, when it is written. It was there before if it was `finished`."""
    fields = command.filters()
    path = Path(command.output)
    settings = {name: value for name, value in command.to_dict().items() if name not in _NOT_RESULT}
    read = [value for name in _READ if (value := getattr(command, name))]
    settings["read"] = [path_identity(name) for value in read for name in read_paths(value)]
    known: dict[str, Any] = {"command": _COMMAND, "settings": settings}
    later = needs_all(fields)
    output = Output(path, inputs=command.inputs, arguments=arguments, anew=later, **known)
    if output.finished:
        return output
    if not later:
        with output:
            _sift_into(output, command, fields)
            _describe(output, fields)
        return output
    check_named(fields)
    parts = beside(path, "parts")
    if STANDARD_INPUT in command.inputs:  # it cannot be known to be the same
        shutil.rmtree(parts, ignore_errors=True)
    with output:
        first = Output(parts / "rows.jsonl", inputs=command.inputs, **known)
        if not first.finished:
            with first:
                _sift_into(first, command, fields)
        last = first
        if fields.ifd_model or fields.reward:
            last = Output(parts / "scored.jsonl", inputs=[str(first.path)], **known)
            if not last.finished:
                with last:
                    rows = itertools.islice(counted(_lines(first.path), first.kept), last.consumed, None)
                    for row in scored(rows, fields):
                        last.keep(row)
        for reject in _lines(beside(first.path, "rejects.jsonl")):
            rejected, why = _rejected(reject)
            output.reject(rejected, step=reject["step"], reason=reject["reason"], field=why)
        store = FileStore(last.path)
        for row, verdict in zip(store.take(), weigh(store, fields)):
            if verdict is None:
                output.keep(row)
            else:
                output.reject(row, step=verdict[0], reason=verdict[1])
        _describe(output, fields)
    shutil.rmtree(parts)
    return output


def _sift_into(output: Output, command: FilterCommand, fields: FilterFields) -> None:
    shown = counted(read_stream(command.inputs, strict=command.strict), expected_rows(command.inputs))
    rows = itertools.islice(shown, output.consumed, None)
    before = itertools.islice(_lines(beside(output.path, "partial")), output.kept)
    sift(rows, fields, output, kept=before, passed=all_steps(fields), strict=command.strict)


def _describe(output: Output, fields: FilterFields) -> None:
    output.funnel(all_steps(fields, output.rejected))
    _say(output.card, fields)


def _funnel(sink: Collected, fields: FilterFields, kept: int) -> None:
    """The same for rows in memory."""
    left = kept + sink.rejected.total()
    examples: dict[str, list[str]] = {}
    for reject in sink.rejects:
        shown = examples.setdefault(reject["step"], [])
        if len(shown) < EXAMPLES:
            shown.append(f"{reject['source']}:{reject['line']}: {reject['reason']}")
    sink.card.counts = {"rows read": left, "rows written": kept, "rows rejected": sink.rejected.total()}
    for name in [READ, *all_steps(fields, sink.rejected)]:
        sink.card.step(name, left, left - sink.rejected[name], examples.get(name, ()))
        left -= sink.rejected[name]


def _say(card: Card, fields: FilterFields) -> None:
    """Notes on what near duplicates are here."""
    if fields.near is not None:
        count, places = bands(fields.near)
        shares = ", ".join(
            f"{found(similarity, count, places):.1%} at {similarity:.2f}"
            for similarity in (fields.near, min(1, fields.near + 0.1), min(1, fields.near + 0.2))
        )
        card.notes.append(
            f"near_duplicates: Jaccard similarity of word pairs at least {fields.near:g}; {count} bands of {places}; "
            f"a pair is found with a probability of {shares}"
        )


def _rejected(line: dict[str, Any]) -> tuple[Row | Broken, str | None]:
    """What a line of a file of rejects was made from, and the field it names."""
    if "row" in line:
        return line["row"], line["field"]
    broken = Broken(
        source=line["source"], line=line["line"], field=line["field"], reason=line["reason"], text=line["text"]
    )  # fmt: skip
    return broken, line["field"]


def _lines(path: Path) -> Iterator[Any]:
    """The rows of a file of this package's own; nothing where it is not there."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
