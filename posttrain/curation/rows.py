"""Rows from files and standard input as a stream, each knowing where it came from, broken ones among them."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from posttrain.data.loading import PROVENANCE
from posttrain.errors import DataError

Row = dict[str, Any]
STANDARD_INPUT = "-"
TEXT_LIMIT = 1000  # characters of a broken row that are kept
UNREADABLE = (EOFError, OSError, zlib.error)  # of a disk, or of a gzip file that was cut off or damaged


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A row that cannot be read: where it stands, and why."""

    source: str
    line: int  # the row's number where a format has no lines
    reason: str
    field: str | None = None
    text: str = ""  # as it was written, at most TEXT_LIMIT characters

    @property
    def place(self) -> str:
        """Such as "train.jsonl:17: messages[0].role"."""
        return f"{self.source}:{self.line}" + (f": {self.field}" if self.field else "")


def field_of(reason: str) -> str | None:
    """The field that a reason begins with: 'input' or messages[0]."""
    found = re.match(r"'([\w.\[\]-]+)'|([a-z_.]+\[\d+\][\w.\[\]]*)", reason)
    return (found[1] or found[2]) if found else None


def unreadable(source: str, line: int, error: Exception) -> Broken:
    """What stands for the rest of a file that cannot be read."""
    return Broken(source=source, line=line, reason=f"the file cannot be read from here on: {error}")


def read_stream(inputs: Sequence[str], *, strict: bool = False) -> Iterator[Row | Broken]:
    """The rows of files in order, each with where it stands in its `_provenance`; the memory does not grow with them.

    Read are .jsonl, .ndjson, .json, .csv, .tsv and .parquet, also with .gz, directories of `Dataset.save_to_disk`,
    and `-`, standard input with a row a line. What a row brings along as its provenance is kept. With `strict` the
    first broken row raises DataError. A file that is not there or cannot be opened at all raises DataError at once.
    """
    from posttrain.curation.reading import check_readable, read_file

    check_inputs(inputs)
    for name in inputs:
        check_readable(name)

    def stream() -> Iterator[Row | Broken]:
        for name in inputs:
            for line, read in read_file(name):
                row = placed(read, name, line)
                if strict and isinstance(row, Broken):
                    raise DataError(f"{row.place}: {row.reason}")
                yield row

    return stream()


def placed(read: Any, source: str, line: int) -> Row | Broken:
    """The row with its provenance; what is no row as Broken."""
    if isinstance(read, Broken):
        return read
    if not isinstance(read, Mapping):
        reason = f"is a {type(read).__name__}, not an object with columns such as {{...}}"
        return Broken(source=source, line=line, reason=reason, text=str(read)[:TEXT_LIMIT])
    brought = read.get(PROVENANCE) or {}
    if not isinstance(brought, Mapping):
        reason = f"is a {type(brought).__name__}, not an object; it says where a row came from"
        return Broken(source=source, line=line, field=PROVENANCE, reason=reason, text=str(dict(read))[:TEXT_LIMIT])
    row = dict(read)
    row[PROVENANCE] = {"source": source, "line": line, **brought}
    return row


def check_inputs(inputs: Sequence[str]) -> None:
    """Raises DataError where no input is named, or one twice."""
    if not inputs:
        raise DataError("no input is named; give one or more files, or - for standard input")
    files = [name if name == STANDARD_INPUT else str(Path(name).resolve()) for name in inputs]
    twice = [name for number, name in enumerate(inputs) if files[number] in files[:number]]
    if twice:
        raise DataError(f"{twice[0]!r} is named twice as an input; its rows would count double")


def input_hashes(inputs: Sequence[str]) -> dict[str, str | None]:
    """The SHA-256 of each input, None for standard input, which is not known before it is read.

    Of a directory the hash of its files' names and contents.
    """
    return {name: None if name == STANDARD_INPUT else _hash(Path(name)) for name in inputs}


def _hash(path: Path) -> str:
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for inside in sorted(file for file in path.rglob("*") if file.is_file()):
        whole.update(f"{inside.relative_to(path)}\0{_hash(inside)}\n".encode())
    return whole.hexdigest()


def standard_input() -> io.BufferedReader:
    """Standard input as bytes whose beginning can be looked at."""
    file = sys.stdin.buffer
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file))
