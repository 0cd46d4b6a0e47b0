"""Rows of a JSONL file as Parquet, CSV or one JSON array, in as much memory as a batch of rows needs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.curation.rows import PROVENANCE, Row

JSON_COLUMNS = b"posttrain.json"  # metadata of a Parquet file: the columns that hold JSON text
_BATCH = 1000
_EXACT = 2**53  # whole numbers up to here are floats too


def write_csv(source: Path, target: Path) -> None:
    """Writes the rows with a header. Text is as it is, what is missing is empty, everything else is JSON.

    A single message is a list of one.
    """
    columns = list(_columns(source))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # lines end in \r\n, and so both signs are quoted inside a field
        writer.writerow(columns)
        for row in _rows(source):
            writer.writerow([_cell(row.get(column)) for column in columns])


def write_array(source: Path, target: Path) -> None:
    """Writes the rows as one array, a row a line."""
    with source.open("rb") as rows, target.open("wb") as file:
        before = b"[\n"
        for line in rows:
            file.write(before + line.rstrip(b"\n"))
            before = b",\n"
        file.write(b"\n]\n" if before == b",\n" else b"[]\n")


def write_parquet(source: Path, target: Path) -> None:
    """Writes the rows with a type for each column: a scalar's, or messages of text; JSON text where neither fits.

    Which columns are JSON text stands in the file's metadata.
    """
    import pyarrow
    import pyarrow.parquet

    kinds = _columns(source)
    types = {
        "null": pyarrow.string(), "bool": pyarrow.bool_(), "int": pyarrow.int64(), "float": pyarrow.float64(),
        "text": pyarrow.string(), "json": pyarrow.string(),
    }  # fmt: skip
    fields = []
    for column, kind in kinds.items():
        message = pyarrow.struct([(key, pyarrow.string()) for key in kind]) if isinstance(kind, tuple) else None
        fields.append((column, pyarrow.list_(message) if isinstance(kind, tuple) else types[kind]))
    packed = [column for column, kind in kinds.items() if kind == "json"]
    schema = pyarrow.schema(fields, metadata={JSON_COLUMNS: json.dumps(packed).encode()})
    with pyarrow.parquet.ParquetWriter(target, schema) as writer:
        batch: list[Row] = []
        for row in _rows(source):
            dumped = {c: json.dumps(row[c], ensure_ascii=False) for c in packed if row.get(c) is not None}
            batch.append({**row, **dumped})
            if len(batch) == _BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                batch = []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


WRITERS: Mapping[str, Callable[[Path, Path], None]] = {
    ".csv": write_csv,
    ".json": write_array,
    ".parquet": write_parquet,
}

ColumnKind = str | tuple[str, ...]  # the keys of messages


def _columns(source: Path) -> dict[str, ColumnKind]:
    """The kind of every column, in the order in which they first appear, the provenance last."""
    kinds: dict[str, ColumnKind] = {}
    for row in _rows(source):
        for column, value in row.items():
            kind = _kind(value)
            before = kinds.get(column)
            if before != kind:
                kinds[column] = kind if before is None else _common(before, kind)
    if PROVENANCE in kinds:
        kinds[PROVENANCE] = kinds.pop(PROVENANCE) and "json"
    return kinds


def _kind(value: Any) -> ColumnKind:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_EXACT <= value <= _EXACT else "json"
    if isinstance(value, float | str):
        return "float" if isinstance(value, float) else "text"
    if isinstance(value, list) and value and all(_is_text_only(item) for item in value):
        return tuple(dict.fromkeys(key for message in value for key in message))
    return "json"


def _is_text_only(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, str) for item in value.values())


def _common(one: ColumnKind, other: ColumnKind) -> ColumnKind:
    """The kind that holds both."""
    if "null" in (one, other):
        return other if one == "null" else one
    if isinstance(one, tuple) and isinstance(other, tuple):
        return tuple(dict.fromkeys([*one, *other]))
    return "float" if {one, other} == {"int", "float"} else "json"


def _rows(source: Path) -> Iterator[Row]:
    with source.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and ("from" in value or "role" in value):  # read as a message only in a list
        value = [value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
