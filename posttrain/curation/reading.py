"""Which reader a file has: by its name, and for JSON by its first characters."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from posttrain.curation.json_array import array_rows
from posttrain.curation.json_rows import line_rows
from posttrain.curation.rows import STANDARD_INPUT, UNREADABLE, standard_input
from posttrain.curation.table_rows import arrow_rows, csv_rows, parquet_rows, parquet_size
from posttrain.errors import DataError, nearest

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:[{\]]|$)")
_PEEK = 1 << 16


def read_file(name: str) -> Iterator[tuple[int, Any]]:
    """(line, row) of an input; Broken in place of a row that cannot be read. Lines count from 1."""
    if name == STANDARD_INPUT:
        return _json(name, standard_input())
    path = Path(name)
    if path.is_dir():
        return arrow_rows(path)
    match suffix(path):
        case ".csv" | ".tsv" as kind:
            return csv_rows(name, open_binary(path), "\t" if kind == ".tsv" else ",")
        case ".parquet":
            return parquet_rows(name)
        case _:
            return _json(name, open_binary(path))


def check_readable(name: str) -> None:
    """Raises DataError for an input that is missing, of an unknown kind, or damaged as a whole."""
    if name == STANDARD_INPUT:
        return
    path = Path(name)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(f"there is no file {name!r}{nearest(path.name, beside)}")
    if path.is_dir():
        if not (path / "state.json").exists():
            files = sorted(p.name for p in path.iterdir() if suffix(p) in SUFFIXES)
            held = f"; name its files: {', '.join(files[:8])}" if files else ""
            raise DataError(f"{name} is a directory, and none that Dataset.save_to_disk wrote{held}")
        return
    kind = suffix(path)
    if kind not in SUFFIXES:
        raise DataError(f"{name} ends in {kind or 'nothing'!r}; read are {', '.join(SUFFIXES)}, also with .gz")
    if kind == ".parquet":
        parquet_size(name)
        return
    try:
        with open_binary(path) as file:
            start = file.peek(_PEEK)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name} is no gzip file ({error}); copy or download it again") from None
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name} is UTF-16; save it as UTF-8, for example with `iconv -f utf-16 -t utf-8`")
    if kind not in (".csv", ".tsv") and _is_spread(start):
        raise DataError(f"{name} holds one JSON object over several lines; write an array of objects, or one a line")


def _is_spread(start: bytes) -> bool:
    """Whether this is the beginning of one JSON object over several lines."""
    return bool(re.match(rb'(?:\xef\xbb\xbf)?\s*\{\s*\n\s*"', start))


def suffix(path: Path) -> str:
    """The ending that tells the kind, without .gz, in small letters."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def open_binary(path: Path) -> io.BufferedReader:
    """The file's bytes, unpacked."""
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(cast(Any, gzip.open(path, "rb")), _PEEK)
    return io.BufferedReader(path.open("rb", buffering=0), _PEEK)


def expected_rows(inputs: list[str]) -> int | None:
    """About how many rows the inputs hold, for the time left: counted lines; None where that is not known."""
    total = 0
    for name in inputs:
        path = Path(name)
        if name == STANDARD_INPUT or path.is_dir() or suffix(path) == ".json":
            return None
        if suffix(path) == ".parquet":
            total += parquet_size(name)
            continue
        try:
            with open_binary(path) as file:
                total += sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        except UNREADABLE:  # whoever reads the rows says so
            return None
    return total


def _json(name: str, file: io.BufferedReader) -> Iterator[tuple[int, Any]]:
    """The rows of an array of objects, or of an object a line: the first characters tell, not the name."""
    is_array = bool(_ARRAY.match(file.peek(_PEEK)))
    return array_rows(name, file) if is_array else line_rows(name, cast(BinaryIO, file))
