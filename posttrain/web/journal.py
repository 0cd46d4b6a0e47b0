"""The judgements on the disk: one JSON line each, there before the page is told so, and never changed again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from posttrain.errors import ConfigError, DataError

Verdict = Literal["prefer", "edit", "tie", "skip"]
_VERDICTS = get_args(Verdict)
UNDO = "undo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one person said of one question."""

    annotator: str
    question: str
    verdict: Verdict
    answer: int | None = None  # of the question's answers, for prefer and edit
    text: str | None = None  # what the answer was edited into
    order: tuple[int, ...] = ()  # the answers as they were shown
    seconds: float | None = None  # since the question was shown
    time: str = ""  # UTC

    def same(self, other: Judgement) -> bool:
        """Whether both say the same of the same question, whenever that was."""
        mine, theirs = ((one.annotator, one.question, one.verdict, one.answer, one.text) for one in (self, other))
        return mine == theirs


class Journal:
    """The judgements of a file, and those that will be added; what was undone no longer stands.

    One process at a time: ConfigError where another one writes. Half a line at the end, which no page was told of, is
    cut off; DataError where a line before it is no judgement.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut = False  # half a line was found
        self._standing: dict[str, dict[str, Judgement]] = {}  # annotator -> question -> judgement, oldest first
        fresh = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
            if fresh:
                _sync_directory(path.parent)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"{path} is being written by another `posttrain data label`; use its page, which takes several"
                " annotators, or name another output"
            ) from None
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def add(self, judgement: Judgement) -> None:
        """Puts the judgement on the disk; it stands when this returns."""
        judgement = _dated(judgement)
        record = {name: getattr(judgement, name) for name in Judgement.__slots__}
        self._write({name: value for name, value in record.items() if value is not None and value != ()})
        self._stand(judgement)

    def undo(self, annotator: str, question: str) -> Judgement:
        """Takes back what the person said of the question, and returns it. Raises KeyError where that is nothing."""
        own = self._standing[annotator]
        judgement = own[question]
        self._write({"annotator": annotator, "question": question, "verdict": UNDO, "time": _now()})
        del own[question]
        return judgement

    def of(self, annotator: str) -> Mapping[str, Judgement]:
        """What the person said that stands, by question, oldest first."""
        return self._standing.get(annotator, {})

    def annotators(self) -> list[str]:
        """Everyone of whom a judgement stands."""
        return sorted(name for name, own in self._standing.items() if own)

    def __iter__(self) -> Iterator[Judgement]:
        """All judgements that stand."""
        for name in self.annotators():
            yield from self._standing[name].values()

    def _stand(self, judgement: Judgement) -> None:
        own = self._standing.setdefault(judgement.annotator, {})
        own.pop(judgement.question, None)  # the newest is the last
        own[judgement.question] = judgement

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"  # ASCII: a lone surrogate has no UTF-8
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written; is the disk full?")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self.cut = True
                    break
                whole += len(line)
                try:
                    self._replay(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{self.path}:{number}: no judgement ({error}). Mend or remove the line; what it said is lost"
                        " then, the others are not."
                    ) from None
        if self.cut:
            os.ftruncate(self._file, whole)

    def _replay(self, record: Mapping[str, Any]) -> None:
        if record["verdict"] == UNDO:
            self._standing.get(record["annotator"], {}).pop(record["question"], None)
            return
        if record["verdict"] not in _VERDICTS:
            raise ValueError(f"verdict is {record['verdict']!r}; it is one of {', '.join((*_VERDICTS, UNDO))}")
        order = tuple(record.get("order") or ())
        known = {name: record[name] for name in Judgement.__slots__ if name in record}
        self._stand(Judgement(**{**known, "order": order}))


def _dated(judgement: Judgement) -> Judgement:
    return judgement if judgement.time else replace(judgement, time=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _sync_directory(path: Path) -> None:
    """Makes sure that a new file is found again after the power was lost."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
