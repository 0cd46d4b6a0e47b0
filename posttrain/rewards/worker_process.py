"""The other side of `workers.py`: a process that loads the function once and forks a worker whenever it is asked to.

It imports the standard library only and never starts a thread, so that forking is quick and safe however many threads
torch has in the process that trains. Everything that goes over a socket is a length and a pickle.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

_HEADER = struct.Struct("!Q")


def send(connection: socket.socket, value: Any) -> None:
    """Sends one value. Raises what pickle raises, before anything is sent."""
    payload = pickle.dumps(value)
    connection.sendall(_HEADER.pack(len(payload)) + payload)


def receive(connection: socket.socket) -> Any:
    """The next value. Raises EOFError where the other side is gone, OSError where the connection broke."""
    (size,) = _HEADER.unpack(_exactly(connection, _HEADER.size))
    return pickle.loads(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytearray:
    received = bytearray(size)
    view, place = memoryview(received), 0
    while place < size:
        count = connection.recv_into(view[place:])
        if not count:
            raise EOFError
        place += count
    return received


def main(descriptor: int) -> None:
    """Serves the process at the other end of the socket until that closes; then no worker is left."""
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers: set[int] = set()
    try:
        order = receive(control)
        try:
            function = _load(order)
        except BaseException as error:
            send(control, ("failed", f"{type(error).__name__}: {error}", traceback.format_exc()))
            return
        send(control, ("ready",))
        while True:
            command, *rest = receive(control)
            if command == "fork":
                workers.add(_fork(control, function, order))
            else:
                _end(rest[0])
                workers.discard(rest[0])
    except (EOFError, OSError):
        pass
    finally:
        for worker in workers:
            _end(worker)


def _load(order: dict[str, Any]) -> Callable[..., Any]:
    """The function of the order, after the files it is defined in."""
    for name, path in order["files"].items():
        load_module(name, path)
    if order["by_value"]:
        import dill

        function, prepare = dill.loads(order["functions"])
    else:
        function, prepare = pickle.loads(order["functions"])
    if prepare is not None:
        prepare()
    loaded: Callable[..., Any] = function
    return loaded


def load_module(name: str, path: str) -> Any:
    """The module that the file defines, under this name. Raises what the file raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _fork(control: socket.socket, function: Callable[..., Any], order: dict[str, Any]) -> int:
    """The process id of a new worker, whose connection goes to the other side."""
    theirs, ours = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    worker = os.fork()
    if worker == 0:
        try:
            os.setpgid(0, 0)  # what the function starts is killed with it
            control.close()
            theirs.close()
            _work(ours, function, unpack=order["unpack"], memory_mib=order["memory_mib"])
        finally:
            os._exit(1)
    with contextlib.suppress(OSError):
        os.setpgid(worker, worker)
    ours.close()
    socket.send_fds(control, [str(worker).encode()], [theirs.fileno()])
    theirs.close()
    return worker


def _end(worker: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(worker, 0)


def _work(connection: socket.socket, function: Callable[..., Any], *, unpack: bool, memory_mib: int | None) -> NoReturn:
    if memory_mib is not None:
        _limit_memory(memory_mib)
    while True:
        try:
            item = receive(connection)
        except (EOFError, OSError):
            os._exit(0)
        except MemoryError:
            reply: tuple[Any, ...] = ("memory",)
        else:
            reply = _call(function, item, unpack)
        try:
            send(connection, reply)
        except OSError:
            os._exit(0)
        except MemoryError:
            send(connection, ("memory",))
        except Exception as error:  # pickle has an exception of its own for every kind of object
            problem = f"returned {type(reply[1]).__name__}, which cannot be sent back: {error}"
            send(connection, ("raised", problem, ""))


def _call(function: Callable[..., Any], item: Any, unpack: bool) -> tuple[Any, ...]:
    try:
        return ("result", function(*item) if unpack else function(item))
    except MemoryError:
        return ("memory",)
    except RecursionError:
        return ("recursion",)
    except BaseException as error:
        return ("raised", f"raised {type(error).__name__}: {error}", traceback.format_exc())


def _limit_memory(memory_mib: int) -> None:
    """Lets the process take so much more address space than it has now."""
    import resource

    try:
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:  # not Linux, where the limit is not kept either
        return
    limit = held + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
