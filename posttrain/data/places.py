"""Where the rows of a source lie: a file, a pattern, a directory of files, or a dataset of the Hugging Face Hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.config.sources import DATA_SUFFIXES, SourceFields, is_hub_name, is_pattern
from posttrain.data.files import read_file, suffix
from posttrain.data.rows import Rows, joined
from posttrain.errors import DataError, nearest

SPLITS = {  # what files of a split are called, as `datasets` knows them
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip


def read_source(source: SourceFields, name: str) -> Rows:
    """The rows of a source, with its columns renamed. Raises DataError where it cannot be read."""
    path = Path(source.path).expanduser()
    files, notes = data_files(source, name)
    if files is None:
        from posttrain.data.hub import load_named

        rows = load_named(source, name)
    else:
        parts = [read_file(file, name) for file in files]
        rows = parts[0] if len(parts) == 1 and path == files[0] else joined(parts, name=name, path=source.path)
    rows = replace(rows, notes=(*rows.notes, *notes))
    if source.rows is not None and source.rows < len(rows):
        note = f"Of {rows.source}'s {len(rows):,} rows the first {source.rows:,} are taken."
        rows = replace(rows.first(source.rows), notes=(*rows.notes, note))
    return rows if not source.columns else renamed(rows, source.columns)


def data_files(source: SourceFields, name: str) -> tuple[list[Path] | None, list[str]]:
    """The files of a source, and what should be said of the choice; None for a dataset that `datasets` loads."""
    path = Path(source.path).expanduser()
    if path.is_file():
        _refuse_hub_fields(source, name, "a file")
        return [path], []
    if path.is_dir():
        return _of_directory(path, source, name)
    if is_pattern(source.path):
        _refuse_hub_fields(source, name, "a pattern")
        found = sorted(Path(hit) for hit in glob.glob(str(path), recursive=True) if Path(hit).is_file())
        if not found:
            raise DataError(f"{name}: no file matches {source.path!r}{_beside(path)}")
        return found, [f"{source.path} is {len(found):,} files."]
    if is_hub_name(source.path):
        return None, []
    raise DataError(f"{name}: there is no file {source.path!r}{_beside(path)}")


def _refuse_hub_fields(source: SourceFields, name: str, what: str) -> None:
    for field in ("config", "split", "revision"):
        if getattr(source, field) is not None:
            raise DataError(f"{name}: {source.path!r} is {what} and has no {field}; leave {field} out")


def _beside(path: Path) -> str:
    """What may have been meant by a path that is not there."""
    if not path.parent.is_dir():
        return f": the directory {str(path.parent)!r} does not exist."
    siblings = sorted(p.name for p in path.parent.iterdir() if suffix(p) in DATA_SUFFIXES or p.is_dir())
    return nearest(path.name, siblings) or f" (beside it: {', '.join(siblings[:8]) or 'no data files'})."


def _of_directory(path: Path, source: SourceFields, name: str) -> tuple[list[Path] | None, list[str]]:
    """The data files of a directory; of the split that is asked for, where their names tell splits apart."""
    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    if saved or source.config is not None or _has_data_card(path):
        return None, []
    files = sorted(file for file in path.rglob("*") if file.is_file() and suffix(file) in DATA_SUFFIXES)
    if not files:
        raise DataError(
            f"{name}: {path} is a directory without data; its files must end in {', '.join(DATA_SUFFIXES)}."
        )
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(path)), []).append(file)
    if set(by_split) == {""}:
        if source.split not in (None, "train"):
            raise DataError(f"{name}: no file in {path} is of a split {source.split!r}; leave split out for all files")
        return files, [f"{path} is {len(files):,} files."]
    split = source.split or "train"
    if split not in by_split:
        raise DataError(
            f"{name}: {path} has no split {split!r}, but {', '.join(map(repr, sorted(filter(None, by_split))))}; "
            "name one in split, or name a file"
        )
    left = sorted(other or "other" for other in by_split if other != split)
    return by_split[split], [f"{path}: the {len(by_split[split]):,} files of {split}, not those of {', '.join(left)}."]


def _split_of(file: Path) -> str:
    """The split that the name of a file or of its directories tells, "" where it tells none."""
    for part in reversed(file.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def _has_data_card(path: Path) -> bool:
    """Whether a README.md says which files are which split, as a dataset's copy from the Hub may."""
    card = path / "README.md"
    if not card.is_file():
        return False
    head = card.read_text(encoding="utf-8", errors="replace")
    return head.startswith("---") and bool(re.search(r"^configs:", head.split("\n---", 1)[0], re.MULTILINE))


def renamed(rows: Rows, columns: Mapping[str, str]) -> Rows:
    """The rows with columns under other names. Raises DataError for a column that is not there."""
    return replace(rows, records=[rename(record, columns, lambda i=i: rows.where(i)) for i, record in enumerate(rows)])


def rename(record: Any, columns: Mapping[str, str], where: Any) -> Any:
    """The record with columns under other names; `where()` is where it stands."""
    if not isinstance(record, Mapping):
        return record
    taken = {target: _reach(record, column, where) for target, column in columns.items()}
    gone = {*columns.values(), *columns}
    return {**{key: value for key, value in record.items() if key not in gone}, **taken}


def _reach(record: Mapping[str, Any], column: str, where: Any) -> Any:
    """The value of a column, or inside of one: `instances.0.output`."""
    if column in record:
        return record[column]
    value: Any = record
    for key in column.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, Sequence) and not isinstance(value, str) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            names = [str(name) for name in record]
            raise DataError(
                f"{where()}: there is no column {column!r} (columns){nearest(column, names) or '.'} Its columns: "
                f"{', '.join(names)}."
            )
    return value
