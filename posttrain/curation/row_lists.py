"""Rows sorted into several files, all of them whole or absent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from posttrain.curation.output import encoded


class RowLists:
    """JSONL files by name; they are there when the context is left without an error."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = dict(paths)
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            for name, path in self.paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[name] = opened.enter_context(_aside(path).open("wb"))
            self._opened = opened.pop_all()
        return self

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Writes the row into the file of this name; nothing where there is none."""
        if name in self._files:
            self._files[name].write(encoded(row))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._opened.close()
        for path in self.paths.values():
            if kind is None:
                _aside(path).replace(path)
            else:
                _aside(path).unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
