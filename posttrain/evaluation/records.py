"""One line for each sample, kept on disk so that an evaluation can be gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, DataError

SETTINGS = "tasks.json"  # beside the records: what those of each task were made with


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One sample: what was asked, answered, and how it was graded."""

    task: str
    row: int  # counted from 1, as in the task
    sample: int  # counted from 1
    prompt: str  # the last message, as the user would see it
    completion: str  # as the model wrote it; of a multiple choice, the choice it finds likeliest
    grades: Mapping[str, float | None]  # None: not applicable, or not to be judged
    kind: str | None = None  # the row's own, where it has one
    answer: str | None = None
    seed: int | None = None
    tokens: int | None = None  # of the completion, the one that ended it included
    finish_reason: str | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)  # log-likelihoods and what they are divided by


class RecordFile:
    """The records of one task, `NAME.jsonl`, which is there when they are complete.

    Until then they are in `NAME.jsonl.partial`. With `settings`, kept in `tasks.json` beside it, such a file is gone on
    with: ConfigError where the settings differ from those it was made with, naming them. Without, it starts anew.
    """

    def __init__(
        self, path: str | Path, task: str, *, rows: int, samples: int, settings: Mapping[str, Any] | None
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._task, self._rows, self._samples = task, rows, samples
        self.records: list[Record] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if settings is None:
            self.partial.write_bytes(b"")
            return
        before = self.path if self.path.exists() else self.partial
        if before.exists() and before.stat().st_size:
            _require_same(self.path, task, settings)
            self._resume(before)
        _keep_settings(self.path.parent / SETTINGS, task, settings)

    @property
    def waiting(self) -> list[int]:
        """The rows, from 0, that have no records yet."""
        done = {record.row for record in self.records}
        return [row for row in range(self._rows) if row + 1 not in done]

    def add(self, records: Sequence[Record]) -> None:
        """Puts the records of whole rows on the disk."""
        with self.partial.open("ab") as file:
            file.write(b"".join(map(_line, records)))
            file.flush()
            os.fsync(file.fileno())
        self.records += records

    def finish(self) -> list[Record]:
        """All records, in the order of rows; from here on the file bears its own name."""
        if self.partial.exists():
            self.partial.replace(self.path)
        return sorted(self.records, key=lambda record: (record.row, record.sample))

    def _resume(self, path: Path) -> None:
        """Takes over the rows whose samples are all there; what an interruption left after them is cut off."""
        end = place = 0
        group: list[Record] = []
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                place += len(line)
                group.append(_read(line, f"{path}:{number}"))
                wanted = [(group[0].row, sample) for sample in range(1, len(group) + 1)]
                known = {record.row for record in self.records}
                if [(r.row, r.sample) for r in group] != wanted or not 1 <= group[0].row <= self._rows or (
                    group[0].row in known
                ):  # fmt: skip
                    raise DataError(
                        f"{path}:{number}: records before this line are missing or out of order. Was the file changed?"
                        " Remove it, or name another directory."
                    )
                if len(group) == self._samples:
                    self.records += group
                    group, end = [], place
        if path.stat().st_size > end:
            with path.open("r+b") as file:
                file.truncate(end)
        if path == self.path:
            if self.waiting:
                path.replace(self.partial)
            else:
                self.partial.unlink(missing_ok=True)


def write_records(
    path: str | Path, records: Iterable[Record], *, task: str = "", settings: Mapping[str, Any] | None = None
) -> None:
    """Writes one JSON line per record, aside first, so that the file is whole or absent; settings go beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_bytes(b"".join(map(_line, records)))
    if settings is not None:
        _keep_settings(path.parent / SETTINGS, task, settings)
    aside.replace(path)


def kept_records(path: str | Path, task: str, settings: Mapping[str, Any] | None) -> list[Record] | None:
    """The records of a whole file made with these settings; None without one, or without settings.

    Raises ConfigError where it was made with others, naming them.
    """
    path = Path(path)
    if settings is None or not path.exists():
        return None
    _require_same(path, task, settings)
    return read_records(path)


def read_records(path: str | Path) -> list[Record]:
    """The records of a file, in order. Raises DataError naming the line that is none."""
    lines = Path(path).read_bytes().splitlines()
    return [_read(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def read_settings(directory: str | Path) -> dict[str, dict[str, Any]]:
    """What the records of each task in the directory were made with; empty where that is not written."""
    path = Path(directory) / SETTINGS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}). Remove it with the records beside it.") from None
    return dict(found)


def differing(then: Mapping[str, Any], now: Mapping[str, Any], *, but: Iterable[str] = ()) -> list[str]:
    """The names of settings that are not the same, except for those in `but`."""
    names = [name for name in dict.fromkeys([*then, *now]) if name not in set(but)]
    return [name for name in names if then.get(name) != now.get(name)]


def _require_same(path: Path, task: str, settings: Mapping[str, Any]) -> None:
    then = read_settings(path.parent).get(task)
    if then is None:
        raise ConfigError(
            f"{path} exists, and {path.parent / SETTINGS} does not say how its records were made. Name another"
            " directory, or move it away."
        )
    now = json.loads(json.dumps(settings))
    if names := differing(then, now):
        said = ", ".join(f"{name} {_short(then.get(name))} (now {_short(now.get(name))})" for name in names)
        raise ConfigError(
            f"{path} holds records made with {said}. Repeat those settings to go on with it, or name another directory."
        )


def _keep_settings(path: Path, task: str, settings: Mapping[str, Any]) -> None:
    kept = read_settings(path.parent) | {task: dict(settings)}
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(record: Record) -> bytes:
    values = asdict(record)
    if not values["measures"]:
        del values["measures"]
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        return json.dumps(values, allow_nan=False).encode() + b"\n"


_FIELDS = {f.name for f in fields(Record)}


def _read(line: bytes, place: str) -> Record:
    try:
        values = json.loads(line)
        return Record(**{name: value for name, value in values.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: no record of an evaluation ({error}). Remove the line or the file.") from None
