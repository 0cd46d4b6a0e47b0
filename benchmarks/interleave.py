"""Lets the sides of a comparison take turns, one step each, and collects what they report."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Side

DISCARDED = 2  # the first steps pay page faults and lazy set-up


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one side did."""

    side: Side
    seconds: list[float]  # each step after the discarded ones
    reports: list[dict[str, Any]] = field(default_factory=list)  # whatever else a step reported
    final: dict[str, Any] = field(default_factory=dict)  # losses, peak_bytes, ...

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


class _Worker:
    def __init__(self, case: Case, side: Side, log: Path) -> None:
        self.side, self._log = side, log
        spec = {"case": case.as_dict(), "side": vars(side), "log": str(log)}
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )

    def expect(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])
            raise SystemExit(f"{self.side.name} stopped early; the end of what it said:\n{tail}")
        return json.loads(line)

    def go(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.expect()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def run(case: Case, sides: Sequence[Side]) -> list[Measured]:
    """Each side's step times, losses and memory; only one side computes at any moment."""
    with tempfile.TemporaryDirectory() as directory:
        workers: list[_Worker] = []
        try:
            for number, side in enumerate(sides):
                worker = _Worker(case, side, Path(directory) / f"{number}.log")
                workers.append(worker)
                worker.expect()  # ready, before the next one starts
            steps: list[list[dict[str, Any]]] = [[] for _ in workers]
            for step in range(case.steps):
                # Every other round runs backwards, so that nobody always follows the same neighbour.
                order = range(len(workers)) if step % 2 == 0 else reversed(range(len(workers)))
                for index in order:
                    steps[index].append(workers[index].go())
            finals = [worker.go() for worker in workers]
        finally:
            for worker in workers:
                worker.close()
    return [
        Measured(
            side=side,
            seconds=[step["seconds"] for step in done[DISCARDED:]],
            reports=done[DISCARDED:],
            final=final,
        )
        for side, done, final in zip(sides, steps, finals, strict=True)
    ]
