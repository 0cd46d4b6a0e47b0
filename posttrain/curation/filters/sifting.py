"""Rows through the filters that need no model, as a stream: each is kept or rejected when it is met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from posttrain.config.curation.filter import FilterFields
from posttrain.curation.filters.duplicates import Duplicates
from posttrain.curation.filters.names import COLUMNS, steps
from posttrain.curation.filters.processes import chunked, in_processes
from posttrain.curation.filters.work import Judged, Marks, RowWork, Verdict
from posttrain.curation.provenance import noted, place
from posttrain.curation.rows import Broken, Row, field_of
from posttrain.curation.sinks import Sink
from posttrain.errors import DataError

CHUNK = 1000  # rows judged together


def sift(
    rows: Iterable[Row | Broken],
    fields: FilterFields,
    sink: Sink,
    *,
    kept: Iterable[Row] = (),
    passed: Sequence[str] = (),
    strict: bool = False,
) -> None:
    """Hands every row to the sink, kept or rejected, in order.

    `kept` are the rows that an earlier run of the command kept: what came after them is decided as if it had not been
    interrupted. `passed` is written into the provenance of what is kept. Duplicates are left to a later step where the
    best of them is to be kept. With `strict` a row whose columns hold something else than they should raises DataError.
    """
    here = fields.keep == "first"
    with Duplicates(exact=here and fields.duplicates, near=fields.near if here else None) as duplicates:
        if here and (fields.duplicates or fields.near is not None):
            for places, marks in in_processes(marker, fields, placed_chunks(kept), fields.workers):
                duplicates.add(marks, places)
        for chunk, judged in in_processes(_work, fields, _chunks(rows), fields.workers):
            verdicts = with_duplicates(judged, [row for row in chunk if not isinstance(row, Broken)], duplicates)
            undecided = iter(verdicts)
            for row in chunk:
                if isinstance(row, Broken):
                    sink.reject(row)
                elif (verdict := next(undecided)) is None:
                    sink.keep(noted(row, passed=list(passed)))
                elif strict and verdict[0] == COLUMNS:
                    raise DataError(f"{place(row)}: {verdict[1]}")
                else:
                    field = field_of(verdict[1]) if verdict[0] == COLUMNS else None
                    sink.reject(row, step=verdict[0], reason=verdict[1], field=field)


def with_duplicates(judged: Judged, rows: Sequence[Row], duplicates: Duplicates) -> list[Verdict | None]:
    """What removes each of these rows, duplicates of rows before them included."""
    verdicts = list(judged.verdicts)
    left = [number for number, verdict in enumerate(verdicts) if verdict is None]
    found = duplicates.judge(judged.marks, [place(rows[number]) for number in left])
    for number, verdict in zip(left, found):
        verdicts[number] = verdict
    return verdicts


def all_steps(fields: FilterFields, rejected: Iterable[str] = ()) -> list[str]:
    """The filters for the funnel; the check of the columns only where it removed something."""
    return [name for name in steps(fields) if name != COLUMNS or name in rejected]


def _chunks(rows: Iterable[Row | Broken]) -> Iterator[tuple[list[Row | Broken], list[Row]]]:
    for chunk in chunked(rows, CHUNK):
        yield chunk, [row for row in chunk if not isinstance(row, Broken)]


def placed_chunks(rows: Iterable[Row]) -> Iterator[tuple[list[str], list[Row]]]:
    """Rows some at a time, with where each stands."""
    for chunk in chunked(rows, CHUNK):
        yield [place(row) for row in chunk], chunk


def _work(fields: FilterFields) -> RowWork:
    return RowWork(fields)


class _Marker:
    """The marks of rows, and nothing else."""

    def __init__(self, fields: FilterFields) -> None:
        self._work = RowWork(fields.replace(decontaminate=None))

    def __call__(self, rows: Sequence[Row]) -> Marks:
        return self._work.marks(rows)


def marker(fields: FilterFields) -> _Marker:
    """What gives rows their marks and looks at nothing else."""
    return _Marker(fields)
