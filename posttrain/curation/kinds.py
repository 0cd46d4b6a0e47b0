"""Datasets and lists of rows as a stream, and a stream as what was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from posttrain.curation.json_rows import fault
from posttrain.curation.rows import TEXT_LIMIT, Broken, Row, placed
from posttrain.errors import DataError


def stream(data: Any, *, name: str = "dataset") -> Iterator[Row | Broken]:
    """The rows of a datasets.Dataset or of a sequence of mappings, numbered from 1 in their provenance.

    Raises DataError for anything else; a path is for `read_stream`.
    """
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise DataError(f"{name} is a {type(data).__name__}; give a dataset of datasets, or a list of dicts")
    return _stream(data, name)


def _stream(data: Iterable[Any], name: str) -> Iterator[Row | Broken]:
    for number, read in enumerate(data, start=1):
        row = placed(read, name, number)
        if not isinstance(row, Broken) and (found := fault(row)) is not None:
            text = repr(row)[:TEXT_LIMIT]
            row = Broken(source=name, line=number, field=found[0], reason=found[1], text=text)
        yield row


def same_kind(rows: list[Row], data: Any) -> Any:
    """The rows as a datasets.Dataset where the data was one, else as they are."""
    if type(data).__module__.split(".")[0] != "datasets":
        return rows
    import datasets

    return datasets.Dataset.from_list(rows)
