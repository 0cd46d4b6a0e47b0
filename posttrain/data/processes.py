"""Work on chunks in several processes, with results in the order of the chunks."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None  # of a process that works for another one


def in_processes(
    work: Callable[[Chunk], Result], chunks: Iterable[Chunk], processes: int
) -> Iterator[tuple[Chunk, Result]]:
    """Each chunk with what `work` makes of it, in order; as many processes as asked for, or none beside this one.

    `work` is copied to each process once. What it raises is raised here.
    """
    if processes < 2:
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    # A forked process is there at once and has everything that was imported; nothing of a GPU is touched in it.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(work,)) as pool:
        waiting: deque[tuple[Chunk, Future[Result]]] = deque()
        stream = iter(chunks)
        try:
            for chunk in itertools.islice(stream, 2 * processes):
                waiting.append((chunk, pool.submit(_call, chunk)))
            while waiting:
                chunk, future = waiting.popleft()
                result = future.result()
                if (following := next(stream, None)) is not None:
                    waiting.append((following, pool.submit(_call, following)))
                yield chunk, result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _work = work


def _call(chunk: Any) -> Any:
    assert _work is not None
    return _work(chunk)
