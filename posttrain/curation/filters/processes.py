"""A function of chunks on several processes, in order and with few chunks under way, so that the memory stays small."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
ALONE = 4  # chunks for which no process is started: starting them takes longer

_function: Callable[[Any], Any] | None = None


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    stream = iter(items)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def in_processes(
    make: Callable[[Any], Callable[[Any], R]],
    settings: Any,
    chunks: Iterable[tuple[T, Any]],
    workers: int | None = None,
) -> Iterator[tuple[T, R]]:
    """(what comes with a chunk, the function's value for it) of each (what comes with it, chunk), in order.

    The function is `make(settings)`. What comes with a chunk stays in this process.
    """
    function = make(settings)  # what is wrong with the settings is raised here
    workers = workers or _cores()
    stream = iter(chunks)
    first = list(itertools.islice(stream, ALONE))
    if workers == 1 or len(first) < ALONE:
        for kept, chunk in itertools.chain(first, stream):
            yield kept, function(chunk)
        return
    # Forked where that is safe, on Linux: a process starts at once and shares what was imported and made.
    forked = os.uname().sysname == "Linux"
    context = multiprocessing.get_context("fork" if forked else "spawn")
    made = (function, None) if forked else (make, settings)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=made)
    under_way: deque[tuple[T, Future[R]]] = deque()
    try:
        for kept, chunk in itertools.chain(first, stream):
            under_way.append((kept, pool.submit(_run, chunk)))
            if len(under_way) > 2 * workers:
                done, future = under_way.popleft()
                yield done, future.result()
        while under_way:
            done, future = under_way.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(function: Callable[[Any], Any], settings: Any) -> None:
    """Keeps the function; where there are settings, what was given makes it of them."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which then ends its processes
    _function = function if settings is None else function(settings)


def _run(chunk: Any) -> Any:
    assert _function is not None
    return _function(chunk)
