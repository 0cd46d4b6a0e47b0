"""C++ of this package, compiled for the machine it runs on when it is first needed.

The result is kept in the user's cache directory under a hash of source, compiler and processor. Without a compiler,
or with POSTTRAIN_NATIVE=0 in the environment, there is none, and what is written in Python is used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC",
)  # fmt: skip
COMPILERS = ("c++", "g++", "clang++")
SWITCH = "POSTTRAIN_NATIVE"
TIMEOUT_S = 120


@functools.cache
def compiled(source: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library of this source, or None and why there is none."""
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH}=0 is set"
    if not sys.platform.startswith("linux"):
        return None, f"not tried on {sys.platform}"
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return None, f"no C++ compiler ({', '.join(COMPILERS)}) is installed"
    try:
        path = _cache() / f"{source.stem}-{_hash(source, compiler)}.so"
        if not path.is_file():
            _compile(source, compiler, path)
        return ctypes.CDLL(str(path)), ""
    except subprocess.CalledProcessError as problem:
        return None, f"{compiler} failed: {problem.stderr.strip().splitlines()[:1]}"
    except (OSError, subprocess.TimeoutExpired) as problem:
        return None, f"{type(problem).__name__}: {problem}"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "posttrain"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _hash(source: Path, compiler: str) -> str:
    """Of what decides the machine code; -march=native is that of the processor's features."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    described = [version.stdout, platform.machine(), *FLAGS, source.read_text(encoding="utf-8")]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        described += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def _compile(source: Path, compiler: str, path: Path) -> None:
    """Writes the library aside first, so that two processes do not read half of it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = Path(aside) / path.name
        command = [compiler, *FLAGS, str(source), "-o", str(made)]
        subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        made.replace(path)
