"""What cost a model's time, on the disk as it comes: answers, scores and edits, by the row they belong to."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from posttrain.errors import ConfigError, DataError
from posttrain.sampling.answer_file import changed_settings


class Journal:
    """Values by (kind, row), each under a key of what it was made from; a value of another key does not count.

    The file is JSON lines, the first of them the settings that decide the values: ConfigError where those that it was
    begun with differ. What an interruption left of a line at the end is cut off. Without a path all is in memory.
    `spent` adds up what the values cost, earlier runs included.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.spent: Counter[str] = Counter()
        self._places: dict[tuple[str, int], int] = {}  # where the last value stands in the file
        self._here: dict[tuple[str, int], dict[str, Any]] = {}
        self._file: IO[bytes] | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open(path, json.loads(json.dumps(settings, default=str)))
        except BlockingIOError:
            self._file.close()
            raise ConfigError(f"{path} is being written by another process; wait, or name another output") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if self.path is not None and not self._places:
                self.path.unlink(missing_ok=True)  # the settings of nothing would only stand in the way of others
            self._file.close()

    @property
    def rows(self) -> int:
        """How many rows have a value."""
        return len({row for _, row in self._places if row >= 0})

    def find(self, kind: str, row: int, key: str) -> Any:
        """The value of the row, None where there is none under this key."""
        if self._file is None:
            line = self._here.get((kind, row))
        elif (place := self._places.get((kind, row))) is None:
            return None
        else:
            self._file.seek(place)
            line = json.loads(self._file.readline())
        return line["value"] if line is not None and line["key"] == key else None

    def add(
        self, kind: str, values: Iterable[tuple[int, str, Any]], *, spent: Mapping[str, int | float] | None = None
    ) -> None:
        """Puts (row, key, value) triples on the disk, all before it returns; the first carries what was spent."""
        lines = [{"kind": kind, "row": row, "key": key, "value": value} for row, key, value in values]
        if spent and any(spent.values()):
            lines = lines or [{"kind": "spent", "row": -1, "key": "", "value": None}]
            lines[0]["spent"] = dict(spent)
            self.spent.update(spent)
        if self._file is None:
            self._here.update({(line["kind"], line["row"]): line for line in lines})
        elif lines:
            place = self._file.seek(0, os.SEEK_END)
            written = [json.dumps(line).encode() + b"\n" for line in lines]
            self._file.write(b"".join(written))
            self._file.flush()
            os.fsync(self._file.fileno())
            for line, data in zip(lines, written):
                self._places[str(line["kind"]), int(line["row"])] = place
                place += len(data)

    def _open(self, path: Path, settings: dict[str, Any]) -> None:
        """Reads where everything stands, after the settings were compared."""
        assert self._file is not None
        self._file.seek(0)
        place = 0
        for number, data in enumerate(self._file, start=1):
            if not data.endswith(b"\n"):
                break
            try:
                line = json.loads(data)
                if number == 1:
                    then = dict(line["settings"])
                else:
                    self._places[line["kind"], line["row"]] = place
                    self.spent.update(line.get("spent", {}))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}: no line of this command ({error!r}). Move the file away, and the answers in it "
                    "are made again, or name another output."
                ) from None
            if number == 1 and (said := changed_settings(then, settings)):
                raise ConfigError(
                    f"{path} holds answers made with {said}. Repeat those settings to go on with them, move the file "
                    "away, or name another output."
                )
            place += len(data)
        self._file.truncate(place)
        if place == 0:
            self._file.write(json.dumps({"settings": settings}, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
