"""Starts the processes of `workers.py`, and ends them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import weakref
from dataclasses import dataclass
from typing import Any

from posttrain.errors import RewardError
from posttrain.rewards.worker_process import receive, send

_START_S = 120.0  # the imports of the function's module, on a busy machine
_CODE = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from posttrain.rewards.worker_process import main
main(int(sys.argv[1]))"""


@dataclass(eq=False, slots=True)
class Worker:
    """A process that takes one item at a time, and the item it has."""

    pid: int
    connection: socket.socket
    index: int = -1
    item: Any = None
    deadline: float = 0.0


class Forker:
    """The process that loads the function and forks the workers; when it sees this one gone, it ends them."""

    def __init__(self, order: dict[str, Any], name: str) -> None:
        self._owner = os.getpid()
        self._workers: dict[int, socket.socket] = {}
        self._control, theirs = socket.socketpair()
        path = json.dumps([place for place in sys.path if isinstance(place, str)])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno()), path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **threads},  # so that no thread is running when a worker is forked
                start_new_session=True,  # Ctrl-C reaches the program, which then ends the workers
            )
        self.close = weakref.finalize(self, _end, self._control, self._workers, self._process, self._owner)
        self._control.settimeout(_START_S)
        try:
            send(self._control, order)
            kind, *rest = receive(self._control)
        except TimeoutError:
            self.close()
            raise RewardError(f"the worker processes for {name} did not start within {_START_S:g} s") from None
        except (EOFError, OSError) as error:
            self.close()
            raise RewardError(f"the process that should load {name} for the workers ended before it had") from error
        except BaseException:
            self.close()
            raise
        if kind == "failed":
            self.close()
            raise RewardError(f"{name} could not be loaded in a worker process: {rest[0]}\n{rest[1]}".rstrip())

    def alive(self) -> bool:
        """Whether the process is there, and a child of this one (after a fork it is not)."""
        return self._owner == os.getpid() and self._process.poll() is None

    def fork(self) -> Worker:
        """A new worker."""
        send(self._control, ("fork",))
        pid, descriptors, _, _ = socket.recv_fds(self._control, 32, 1)
        if not descriptors:
            raise EOFError
        worker = Worker(int(pid), socket.socket(fileno=descriptors[0]))
        self._workers[worker.pid] = worker.connection
        return worker

    def end(self, worker: Worker) -> None:
        """Kills the worker and what it started."""
        self._workers.pop(worker.pid).close()
        send(self._control, ("end", worker.pid))


def _end(
    control: socket.socket, workers: dict[int, socket.socket], process: subprocess.Popen[bytes], owner: int
) -> None:
    for connection in (control, *workers.values()):
        connection.close()
    if owner != os.getpid():
        return
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
