"""One file of data as rows: its name tells the kind, for JSON its first character."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from posttrain.config.sources import DATA_SUFFIXES
from posttrain.data.rows import Rows
from posttrain.errors import DataError


def suffix(path: Path) -> str:
    """The ending that tells the kind, without .gz, in small letters."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_file(path: Path, name: str) -> Rows:
    """The rows of one file. Raises DataError where it is of an unknown kind, damaged, or has a broken row."""
    match suffix(path):
        case ".jsonl" | ".json" | ".ndjson":
            return _from_json(path, name)
        case ".csv" | ".tsv" as kind:
            return _from_csv(path, name, delimiter="\t" if kind == ".tsv" else ",")
        case ".parquet":
            return Rows(name=name, path=str(path), records=_from_parquet(path))
        case ".arrow":
            return Rows(name=name, path=str(path), records=_from_arrow(path))
        case other:
            raise DataError(
                f"{name}: {path} ends in {other or 'nothing'!r}; a file must end in {', '.join(DATA_SUFFIXES)}, or in "
                'one of these with .gz. For plain text write one {"text": ...} a line into a .jsonl file.'
            )


def _open(path: Path) -> TextIO:
    # newline="" leaves line ends to the csv reader; utf-8-sig drops a byte-order mark
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _read(path: Path) -> str:
    try:
        with _open(path) as file:
            return file.read()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: about line {line} is not UTF-8 ({error.reason}). Save the file as UTF-8, for example "
            f"with `iconv -f latin1 -t utf-8 {path.name}`."
        ) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}). Copy or download it again.") from None


def _from_json(path: Path, name: str) -> Rows:
    """Rows of an array of objects, or of one object a line: the first character tells, not the name."""
    text = _read(path)
    if text.lstrip()[:1] == "[":
        try:
            array = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: {_json_problem(error)}") from None
        return Rows(name=name, path=str(path), records=array)
    records, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if not records and _is_object(text):
                raise DataError(
                    f"{path}: holds one JSON object over several lines, not rows. Write an array of objects "
                    "([{...}, {...}]) or one object a line."
                ) from None
            raise DataError(f"{path}:{number}: {_json_problem(error)}") from None
        lines.append(number)
    return Rows(name=name, path=str(path), records=records, lines=lines)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


def _json_problem(error: json.JSONDecodeError) -> str:
    """What is wrong with the JSON, and what most likely led to it."""
    around = error.doc[max(error.pos - 20, 0) : error.pos + 20].strip()
    rest = error.doc[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated"):
        why = "It ends early: the file may have been cut off while it was written."
    elif rest[0] == "'" or around.startswith("{'"):
        why = "JSON wants double quotes: write rows with json.dumps, not with str()."
    elif error.msg.startswith("Extra data"):
        why = "One line must hold one object and nothing else."
    else:
        why = "Mend or delete it; json.dumps writes rows correctly."
    return f"not valid JSON: {error.msg} at column {error.colno}, near {around!r}. {why}"


def _from_csv(path: Path, name: str, delimiter: str) -> Rows:
    reader = csv.DictReader(io.StringIO(_read(path), newline=""), delimiter=delimiter, restkey="")
    records, lines = [], []
    usual_limit = csv.field_size_limit(2**31 - 1)  # one field may be a whole document
    try:
        header = reader.fieldnames or []
        last = reader.line_num
        rows = list(_numbered(reader))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV: {error}.") from None
    finally:
        csv.field_size_limit(usual_limit)
    for record, end in rows:
        if "" in record or None in record.values():
            raise DataError(
                f"{path}:{last + 1}: has {'more' if '' in record else 'fewer'} fields than the header "
                f"({', '.join(header) or 'none'}). Quote fields that contain {delimiter!r} or line breaks."
            )
        records.append(record)
        lines.append(last + 1)  # a quoted field may run over several lines: the row is where it starts
        last = end
    return Rows(name=name, path=str(path), records=records, lines=lines)


def _numbered(reader: csv.DictReader[str]) -> Iterator[tuple[dict[str, Any], int]]:
    for record in reader:
        yield record, reader.line_num


def _from_parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a whole parquet file ({error}). Copy or download it again.") from None


def _from_arrow(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of an Arrow file, as a stream or as a file with a footer."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            try:
                reader = pyarrow.ipc.open_stream(file)
            except pyarrow.ArrowInvalid:
                file.seek(0)
                reader = pyarrow.ipc.open_file(file)
            return reader.read_all().to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a whole Arrow file ({error}). Copy or download it again.") from None
