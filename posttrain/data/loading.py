"""Reads a dataset of any kind into rows that know where they came from, so that complaints can say it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast, overload

from posttrain.errors import DataError, nearest

PROVENANCE = "_provenance"  # where a curated row came from and what it passed; nothing learns from it
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
KINDS = (
    "a datasets.Dataset, a list of dicts, a path to a .jsonl, .json, .parquet or .csv file, "
    "or a directory written by Dataset.save_to_disk"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Sequence[Mapping[str, Any]]):
    """A dataset as a sequence of dicts. `where(i)` says where row i stands in what the user wrote."""

    name: str  # the argument it was given as, such as "train_dataset"
    records: Sequence[Mapping[str, Any]]
    path: str | None = None
    lines: Sequence[int] | None = None  # the line of each record, for files that have one record a line

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.records)

    @property
    def source(self) -> str:
        """The file, if there is one, or else the name of the argument."""
        return self.path or self.name

    def where(self, row: int) -> str:
        """Such as "train.jsonl:17" for a file with a row a line, else "row 16 of ...", counted from 0."""
        if self.path and self.lines:
            return f"{self.path}:{self.lines[row]}"
        return f"row {row} of {self.source}"


def load_rows(source: Any, *, name: str = "train_dataset") -> Rows:
    """The rows of a dataset object, a list of dicts or a file. Raises DataError if unreadable or empty."""
    if isinstance(source, Rows):
        rows = source
    elif isinstance(source, str | os.PathLike):
        rows = _from_path(Path(source), name)
    else:
        rows = Rows(name=name, records=_records(source, name))
    if not rows:
        raise DataError(f"{name}: {rows.path or type(source).__name__} holds no rows. Give at least one.")
    for index, record in enumerate(rows):
        if not isinstance(record, Mapping):
            raise DataError(
                f"{rows.where(index)}: a row must be a dict of columns, got {_show(record)}."
                + (' For plain texts write {"text": ...} for each.' if isinstance(record, str) else "")
            )
    return rows


def _records(source: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """The records of an object in memory."""
    if type(source).__module__.split(".")[0] == "datasets":
        return _from_datasets(source, name)
    if isinstance(source, Mapping):
        raise DataError(
            f"{name}: got a dict with keys {_names(source)}; a dataset is {KINDS}. "
            "For a dict of columns use datasets.Dataset.from_dict(...), of a dict of splits pass one."
        )
    if source is None or isinstance(source, bytes | int | float) or not isinstance(source, Iterable):
        raise DataError(f"{name}: got {_show(source)}; a dataset is {KINDS}.")
    return source if isinstance(source, list) else list(source)


def _from_datasets(source: Any, name: str) -> Sequence[Mapping[str, Any]]:
    import datasets

    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        splits = ", ".join(map(repr, source))
        first = next(iter(source), "train")
        raise DataError(
            f"{name}: got a {type(source).__name__} with the splits {splits}. "
            f"Pass one of them: {name}=dataset[{first!r}]."
        )
    if isinstance(source, datasets.Dataset):
        if source.format["type"] == "custom":  # by with_transform, whose output is what the user wants
            return list(source)
        return source.with_format(None).to_list()
    if isinstance(source, datasets.IterableDataset):
        return [dict(record) for record in source]
    raise DataError(f"{name}: got a {type(source).__name__} of datasets; a dataset is {KINDS}.")


def _from_path(path: Path, name: str) -> Rows:
    if not path.exists():
        raise DataError(f"{name}: there is no file {str(path)!r}{_hint(path)}")
    if path.is_dir():
        return Rows(name=name, path=str(path), records=_from_directory(path, name))
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    match suffix.lower().removesuffix(".gz"):
        case ".jsonl" | ".json" | ".ndjson":
            return _from_json(path, name)
        case ".csv" | ".tsv":
            return _from_csv(path, name, delimiter="\t" if ".tsv" in suffix else ",")
        case ".parquet":
            return Rows(name=name, path=str(path), records=_from_parquet(path))
        case other:
            raise DataError(
                f"{name}: {path} ends in {other or 'nothing'!r}; a file must end in {', '.join(SUFFIXES)}. "
                'For plain text write one {"text": ...} a line into a .jsonl file.'
            )


def _hint(path: Path) -> str:
    """What may have been meant by a path that is not there."""
    if not path.parent.is_dir():
        if len(path.parts) == 2 and not path.suffix:
            return (
                f". If it is the name of a dataset on the Hugging Face Hub, load it first: "
                f"datasets.load_dataset({str(path)!r}, split='train')."
            )
        return f": the directory {str(path.parent)!r} does not exist."
    siblings = sorted(p.name for p in path.parent.iterdir() if p.suffix in SUFFIXES or p.is_dir())
    return nearest(path.name, siblings) or f" (beside it: {', '.join(siblings[:8]) or 'no data files'})."


def _from_directory(path: Path, name: str) -> Sequence[Mapping[str, Any]]:
    import datasets

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _from_datasets(datasets.load_from_disk(str(path)), name)
    files = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
    if files:
        raise DataError(f"{name}: {path} is a directory. Pass one of its files: {', '.join(files[:8])}.")
    raise DataError(f"{name}: {path} is a directory without data; a dataset is {KINDS}.")


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
                f"({_names(header)}). Quote fields that contain {delimiter!r} or line breaks."
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


def _names(names: Iterable[Any]) -> str:
    return ", ".join(str(name) for name in names) or "none"


def _show(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
