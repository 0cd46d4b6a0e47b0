"""Tables as a stream of rows: CSV, Parquet, and what Dataset.save_to_disk writes."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.curation.json_rows import fault
from posttrain.curation.rows import PROVENANCE, TEXT_LIMIT, UNREADABLE, Broken, unreadable
from posttrain.curation.tables import JSON_COLUMNS
from posttrain.errors import DataError

_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as Python's surrogateescape keeps them
_LARGEST_FIELD = 1 << 24  # characters; a field beyond that is a quote that was never closed
_BATCH = 1024


def csv_rows(name: str, file: BinaryIO, delimiter: str) -> Iterator[tuple[int, Any]]:
    """(line it begins at, row) of each record, the first being the header; Broken for ragged ones."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    seen = [""]  # the last line that was read, to show what is wrong

    def lines() -> Iterator[str]:
        for seen[0] in text:
            yield seen[0]

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header = _header(name, reader)
    last = reader.line_num
    while True:
        usual = csv.field_size_limit(_LARGEST_FIELD)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = " (a quote is never closed)" if "unexpected end" in str(error) or "limit" in str(error) else ""
            shown = seen[0][:TEXT_LIMIT].rstrip().encode(errors="surrogateescape").decode(errors="backslashreplace")
            yield last + 1, Broken(source=name, line=last + 1, reason=f"is not valid CSV: {error}{why}", text=shown)
            last = reader.line_num
            continue
        except UNREADABLE as error:
            yield last + 1, unreadable(name, last + 1, error)
            return
        finally:
            csv.field_size_limit(usual)
        if fields:
            yield last + 1, _record(name, last + 1, header, fields, delimiter)
        last = reader.line_num


def _header(name: str, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise DataError(f"{name}:1: the header is not valid CSV: {error}") from None
    except UNREADABLE as error:
        raise DataError(f"{name}:1: the header cannot be read: {error}") from None
    twice = [column for number, column in enumerate(header) if column in header[:number]]
    if twice or "" in header:
        wrong = f"names {twice[0]!r} twice" if twice else "has a column without a name"
        raise DataError(f"{name}:1: the header {wrong}; every column needs a name of its own")
    return header


def _record(name: str, line: int, header: Sequence[str], fields: Sequence[str], delimiter: str) -> Any:
    shown = delimiter.join(fields)[:TEXT_LIMIT]
    if len(fields) != len(header):
        counts = f"has {len(fields)} fields, the header {len(header)}"
        reason = f"{counts}; quote fields that contain {delimiter!r} or line breaks"
        return Broken(source=name, line=line, reason=reason, text=shown)
    for column, value in zip(header, fields):
        if not value.isascii() and _ESCAPED.search(value):
            shown = shown.encode(errors="surrogateescape").decode(errors="backslashreplace")
            return Broken(source=name, line=line, field=column, reason="is not UTF-8", text=shown)
    return _unpacked(name, line, dict(zip(header, fields)))


def parquet_size(name: str) -> int:
    """The rows of a Parquet file. Raises DataError where it is not whole."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(name).num_rows)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{name} is not a whole Parquet file ({error}); copy or download it again") from None


def parquet_rows(name: str) -> Iterator[tuple[int, Any]]:
    """(number, row) of a Parquet file, counted from 1."""
    import pyarrow.parquet

    number = 0
    with pyarrow.parquet.ParquetFile(name) as file:
        packed = json.loads((file.schema_arrow.metadata or {}).get(JSON_COLUMNS, b"[]"))
        for batch in file.iter_batches(batch_size=_BATCH):
            for record in batch.to_pylist():
                number += 1
                yield number, _plain(name, number, record, packed)


def arrow_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of a directory that Dataset.save_to_disk wrote, counted from 1."""
    import datasets

    number = 0
    for batch in datasets.load_from_disk(str(path)).with_format("arrow").iter(batch_size=_BATCH):
        for record in batch.to_pylist():
            number += 1
            yield number, _plain(str(path), number, record)


def _plain(name: str, number: int, record: dict[str, Any], packed: Sequence[str] = ()) -> Any:
    """The record as values that JSON can hold, or Broken."""
    row = {column: _value(value) for column, value in record.items()}
    binary = next((column for column, value in row.items() if _binary(value)), None)
    found = fault(row) if binary is None else (binary, "is binary, which a row of text cannot hold")
    if found is not None:
        shown = str(row)[:TEXT_LIMIT].encode(errors="backslashreplace").decode()
        return Broken(source=name, line=number, field=found[0], reason=found[1], text=shown)
    return _unpacked(name, number, row, packed)


def _value(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    return [_value(item) for item in value] if isinstance(value, list) else value


def _binary(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_binary, value.values()))
    return any(map(_binary, value)) if isinstance(value, list) else isinstance(value, bytes)


def _unpacked(name: str, line: int, row: dict[str, Any], packed: Sequence[str] = ()) -> Any:
    """The row with the values of what tables hold as JSON text: the provenance, and the columns named."""
    for column in dict.fromkeys([*packed, PROVENANCE]):
        text = row.get(column)
        if isinstance(text, str):
            try:
                row[column] = json.loads(text) if text else {}
            except ValueError as error:
                reason = f"is not valid JSON: {error}"
                return Broken(source=name, line=line, field=column, reason=reason, text=text[:TEXT_LIMIT])
    return row
