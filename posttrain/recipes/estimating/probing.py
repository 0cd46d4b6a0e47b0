"""The side that asks: starts the process that tries a stage, and hears what it says until its time is over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.base import Config

PATIENCE = 120.0  # seconds beyond those of the trials: for imports, reading, loading
TRIALS = 2

Events = list[dict[str, Any]]


def probe(method: str, fields: Config, *, seconds: float) -> Events:
    """What the trial of a stage told, in order; the last event is "killed" where it was cut off."""
    values = {name: value for name, value in fields.to_dict().items() if name in fields.model_fields_set}
    with tempfile.TemporaryDirectory(prefix="posttrain-doctor-") as directory:
        task = {"method": method, "values": values, "seconds": seconds, "directory": directory}
        process = subprocess.Popen(
            [sys.executable, "-m", "posttrain.recipes.estimating.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        timer = threading.Timer(PATIENCE + TRIALS * (1.5 * seconds + 20.0), lambda: _end(process))
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(json.dumps(task))
            process.stdin.close()
            events = [json.loads(line) for line in process.stdout]
            errors = process.stderr.read()
            status = process.wait()
        finally:
            timer.cancel()
            _end(process)
            process.wait()
        if status != 0:
            log = Path(directory) / "log"
            events.append({"event": "killed", "status": status, "text": _last_line(log, errors)})
    return events


def first(events: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The first event of this name."""
    return next((event for event in events if event["event"] == name), None)


def last(events: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The last event of this name."""
    return next((event for event in reversed(events) if event["event"] == name), None)


def every(events: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The events of this name."""
    return [event for event in events if event["event"] == name]


def steps_of_last_trial(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of the last trial that had any."""
    trials: list[list[Mapping[str, Any]]] = []
    for event in events:
        if event["event"] == "trial":
            trials.append([])
        elif event["event"] == "step" and trials:
            trials[-1].append(event)
    return next((steps for steps in reversed(trials) if steps), [])


def _end(process: subprocess.Popen[str]) -> None:
    """Kills the process and those it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: Path, errors: str) -> str:
    text = errors.strip() or (log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else "")
    return text.splitlines()[-1] if text else ""
