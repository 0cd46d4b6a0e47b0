"""Functions for the workers' tests, in a file that imports no torch, so that processes start quickly."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def behave(how: str) -> Any:
    if how == "sleep":
        time.sleep(60)
    if how == "spin":
        while True:
            pass
    if how == "exit":
        os._exit(3)
    if how == "crash":
        ctypes.string_at(0)
    if how == "memory":
        held = []
        while True:
            held.append(bytearray(2**22))
    if how == "recurse":
        return behave(how)
    if how == "raise":
        raise ValueError("nothing fits")
    if how == "odd":
        return lambda: None
    return how.upper()


def pid_of(item: Any) -> int:
    return os.getpid()


def with_child(item: str) -> None:
    child = subprocess.Popen(["sleep", "60"])
    Path(item).write_text(str(child.pid))
    time.sleep(60)


def loaded(module: str) -> bool:
    return module in sys.modules


def prepare() -> None:
    import wave  # noqa: F401  a module that nothing else imports


def graded(text: str, answer: str) -> float | None:
    if text == "sleep":
        time.sleep(60)
    return None if not answer else float(answer in text)
