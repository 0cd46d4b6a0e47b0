"""Where and with what a run was made: versions, hardware, time, command."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

FILE = "environment.json"
_PACKAGES = ("posttrain", "torch", "transformers", "peft", "accelerate", "datasets")
_SECRET = re.compile(r"(--)?([\w-]+\.)?(push[_-]to[_-])?hub[_-]token")  # a flag, or a field of a recipe's stage
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")  # of the hub, wherever it stands
_HIDDEN = "***"


def describe(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, machine, threads and the command, as plain values."""
    hardware = {"system": platform.platform(), "processor": _processor(), "device": str(device)}
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "command": [Path(sys.argv[0]).name, *without_secrets(sys.argv[1:])],
    }


def write_environment(directory: Path, environment: dict[str, Any], started: datetime.datetime) -> None:
    """Writes `environment.json` with when the run started and how long it has taken until now."""
    ended = datetime.datetime.now(datetime.UTC)
    times = {
        "started": started.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round((ended - started).total_seconds(), 1),
    }
    (directory / FILE).write_text(json.dumps(environment | times, indent=2) + "\n")


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words of a command, with stars in the place of tokens."""
    shown: list[str] = []
    secret = False  # what comes next
    for word in words:
        name, equals, _ = word.partition("=")
        named = _SECRET.fullmatch(name) is not None
        shown.append(_HIDDEN if secret else f"{name}={_HIDDEN}" if named and equals else _TOKEN.sub(_HIDDEN, word))
        secret = named and not equals
    return shown


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
