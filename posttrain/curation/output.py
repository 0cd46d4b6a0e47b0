"""A file of rows that is whole or absent, what was rejected, and how far an interrupted command came."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from posttrain.curation.card import EXAMPLES, Card
from posttrain.curation.rows import PROVENANCE, STANDARD_INPUT, Broken, Row, input_hashes
from posttrain.curation.tables import WRITERS
from posttrain.errors import ConfigError, DataError

READ = "read"  # the step that rejects broken rows
FAILED = "failed"  # the count of rows that are worth another try


class Output:
    """Where a command's rows go: FILE, FILE.rejects.jsonl and FILE.card.json, all three when the command has ended.

    FILE is JSONL, or what its ending says: .json, .csv or .parquet, written from JSONL at the end.
    A context manager. Until it is left without an error, what was decided lies in FILE.partial, and the same command
    (the same settings, inputs of the same content) goes on behind the `consumed` rows that it need not decide again.
    `settings` is what decides the rows; `arguments` what stood on the command line, for the card. With `anew` all rows
    are decided again, because what took time is kept elsewhere, and a file whose card counts rows that `failed` is made
    again.
    `commit_every_s` is 0 for rows that cost something: then each is on the disk before the next is begun, and stays
    there after an error in the data too. Raises ConfigError at once where the files there are another command's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        command: str,
        settings: Mapping[str, Any],
        inputs: Sequence[str],
        arguments: Sequence[str] = (),
        anew: bool = False,
        commit_every_s: float = 1.0,
    ) -> None:
        self.path = Path(path)
        self._rejects, self._card = beside(self.path, "rejects.jsonl"), beside(self.path, "card.json")
        self._partial = beside(self.path, "partial")
        self._partial_rejects, self._state = beside(self.path, "partial.rejects"), beside(self.path, "partial.json")
        for name in inputs:
            if name != STANDARD_INPUT and Path(name).resolve() == self.path.resolve():
                raise ConfigError(f"the output {self.path} is also an input; name another")
        self.card = Card(
            command=shlex.join(["posttrain", *command.split(), *arguments]),
            settings=json.loads(json.dumps(settings, default=str)),
            inputs=input_hashes(inputs),
            versions=_versions(),
        )
        self.consumed = 0  # input rows decided, by earlier runs of this command too
        self.kept = 0
        self.rejected: Counter[str] = Counter()  # step -> rows
        self.examples: dict[str, list[str]] = {}  # step -> of what it rejected
        self._identity = {"command": command, "settings": self.card.settings, "inputs": dict(self.card.inputs)}
        self._commit_every_s, self._seconds = commit_every_s, 0.0
        self._whole = (0, 0)  # bytes of both files up to the last row that was decided
        self._written = [0, 0]
        self.finished = self._is_finished(anew)
        self._went_on = not self.finished and not anew and self._recall()

    def __enter__(self) -> Self:
        self._started = self._committed = time.monotonic()
        if self.finished:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._files = [_opened(path, size) for path, size in zip(self._partials(), self._whole)]
        self._written = list(self._whole)
        if self._went_on:
            print(f"{self.path}: {self.consumed:,} rows are decided; going on", file=sys.stderr)
        self._commit()
        return self

    def keep(self, row: Row, *, consumed: int = 1) -> None:
        """Writes a row. `consumed` is 0 for all but the last of several rows made from one."""
        self._write(0, row)
        self.kept += 1
        self._decided(consumed)

    def reject(
        self, row: Row | Broken, *, step: str = READ, reason: str = "", field: str | None = None, consumed: int = 1
    ) -> None:
        """Writes to the rejects which step removed the row, and why. A broken row says that itself."""
        if isinstance(row, Broken):
            place = {"source": row.source, "line": row.line, "step": step}
            line = {**place, "field": field or row.field, "reason": reason or row.reason, "text": row.text}
        else:
            notes = row.get(PROVENANCE) or {}
            place = {"source": notes.get("source"), "line": notes.get("line"), "step": step}
            line = {**place, "field": field, "reason": reason, "row": row}
        self._write(1, line)
        self.rejected[step] += 1
        shown = self.examples.setdefault(step, [])
        if len(shown) < EXAMPLES:
            said = row.text if isinstance(row, Broken) else _shown(row)
            shown.append(f"{line['source']}:{line['line']}: {line['reason']}: {said}"[:400])
        self._decided(consumed)

    def funnel(self, steps: Sequence[str]) -> None:
        """Adds a line to the card for the reading and each of these steps, from what was rejected so far."""
        rows = self.consumed
        for name in [READ, *(step for step in steps if step != READ)]:
            left = rows - self.rejected[name]
            self.card.step(name, rows, left, self.examples.get(name, ()))
            rows = left

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finished:
            return
        if kind is None:
            self._finish()
            return
        self._commit()
        for file in self._files:
            file.close()
        mended = issubclass(kind, DataError) and self._commit_every_s > 0  # the input will not be the same again
        if not self.consumed or mended or None in self.card.inputs.values():
            self._forget()
        else:
            print(
                f"\n{self.path}: stopped with {self.consumed:,} rows decided. The same command goes on.",
                file=sys.stderr,
            )

    def _write(self, which: int, row: Mapping[str, Any]) -> None:
        line = encoded(row)
        self._files[which].write(line)
        self._written[which] += len(line)

    def _decided(self, consumed: int) -> None:
        if not consumed:
            return
        self.consumed += consumed
        self._whole = (self._written[0], self._written[1])
        if time.monotonic() - self._committed >= self._commit_every_s:
            self._commit()

    def _commit(self) -> None:
        """What was decided is on the disk, and that it was."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        now = time.monotonic()
        self._seconds += now - self._started
        self._started = self._committed = now
        state = {
            **self._identity, "consumed": self.consumed, "kept": self.kept, "rejected": self.rejected,
            "examples": self.examples, "whole": self._whole, "seconds": self._seconds,
        }  # fmt: skip
        aside = self._state.with_name(self._state.name + ".new")
        aside.write_text(json.dumps(state), encoding="utf-8")
        aside.replace(self._state)

    def _finish(self) -> None:
        self._commit()
        for file in self._files:
            file.close()
        self.card.seconds = round(self._seconds, 3)
        self.card.counts = {
            "rows read": self.consumed, "rows written": self.kept, "rows rejected": self.rejected.total(),
            **self.card.counts,
        }  # fmt: skip
        if not self.card.steps:
            self.funnel(list(self.rejected))
        made = self._partial
        if write := WRITERS.get(self.path.suffix):
            made = beside(self.path, "partial.table")
            write(self._partial, made)
        with made.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = self._identity["command"]
        self.card.output = {"file": str(self.path), "rows": self.kept, "sha256": digest, "made by": name}
        self.card.write(self._card)
        self._partial_rejects.replace(self._rejects)
        made.replace(self.path)
        for path in (self._partial, self._state):
            path.unlink(missing_ok=True)

    def _is_finished(self, anew: bool) -> bool:
        """The file is there, and is what this command makes. Raises ConfigError where it is not."""
        if not self.path.exists():
            return False
        card = Card.read(self._card)
        what = "was not made by this command"
        if card is not None and card.output:
            made = {"command": card.output.get("made by"), "settings": card.settings, "inputs": card.inputs}
            what = self._differing(made) and f"was made with another {self._differing(made)}"
        if card is None or what:
            raise ConfigError(f"{self.path} exists and {what}. Name another output, or remove the file.")
        if anew and card.counts.get(FAILED):
            return False
        self.card, self.consumed = card, card.counts["rows read"]
        self.kept = card.output["rows"]
        return True

    def _recall(self) -> bool:
        """Whether an earlier run of this command was interrupted, whose counts are taken over."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if None in self.card.inputs.values():  # standard input cannot be read again from where it was
            return False
        if differing := self._differing(state):
            raise ConfigError(
                f"{self._partial} was begun with another {differing}. Repeat that command to go on with it, name"
                f" another output, or remove {self._partial}*"
            )
        if self._rejects.exists() and not self._partial_rejects.exists():  # stopped between the two last steps
            self._rejects.replace(self._partial_rejects)
        if any(not p.exists() or p.stat().st_size < size for p, size in zip(self._partials(), state["whole"])):
            return False
        self.consumed, self.kept, self._seconds = state["consumed"], state["kept"], state["seconds"]
        self.rejected, self.examples = Counter(state["rejected"]), state["examples"]
        self._whole = (state["whole"][0], state["whole"][1])
        return self.consumed > 0

    def _differing(self, before: Mapping[str, Any]) -> str:
        """In words, what of the command was different."""
        now = json.loads(json.dumps(self._identity))
        named = {"command": "command", "inputs": "input or input of another content"}
        said = [word for name, word in named.items() if before.get(name) != now[name]]
        if None in self.card.inputs.values():
            said.append("standard input, perhaps")
        then = before.get("settings") or {}
        for name in dict.fromkeys([*then, *now["settings"]]):
            if then.get(name) != now["settings"].get(name):
                said.append(f"{name} ({then.get(name)!r}, now {now['settings'].get(name)!r})"[:200])
        return ", ".join(said)

    def _partials(self) -> tuple[Path, Path]:
        return self._partial, self._partial_rejects

    def _forget(self) -> None:
        for path in (*self._partials(), self._state):
            path.unlink(missing_ok=True)


def beside(path: Path, ending: str) -> Path:
    """The file that lies beside an output under this ending: `rejects.jsonl`, `card.json`."""
    return path.with_name(f"{path.name}.{ending}")


def _opened(path: Path, size: int) -> BinaryIO:
    """The file, cut off behind what was decided, for this process alone."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{path} is being written by another process; wait for it, or name another output") from None
    file.truncate(size)
    return file


def encoded(row: Mapping[str, Any]) -> bytes:
    """The row as a line of JSON."""
    try:
        return json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot hold
        return json.dumps(row, default=str).encode() + b"\n"


def _shown(row: Row) -> str:
    return json.dumps({k: v for k, v in row.items() if k != PROVENANCE}, ensure_ascii=False, default=str)[:300]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("posttrain", "datasets", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
