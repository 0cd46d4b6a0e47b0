"""The labelling page as its command starts it, in a process of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RUN = "import sys; from posttrain.cli.data_label import run; sys.exit(run(sys.argv[1:]))"


@dataclass
class Server:
    """The process, the address it printed, and what it printed in all once it has ended."""

    process: subprocess.Popen[bytes]
    address: str
    said: str = ""

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=30)
        self.said += rest.decode()
        return self.process.returncode


@contextmanager
def served(*arguments: str | Path) -> Iterator[Server]:
    """A server that is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said = _until_ready(process, 60)
        yield Server(process=process, address=re.findall(r"http\S+", said)[0], said=said)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _until_ready(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    assert process.stdout is not None
    said, ends = b"", time.monotonic() + timeout_s
    while b"Ctrl-C ends" not in said:
        assert select.select([process.stdout], [], [], max(0.0, ends - time.monotonic()))[0], said.decode()
        more = os.read(process.stdout.fileno(), 1 << 16)
        assert more, said.decode()
        said += more
    return said.decode()
