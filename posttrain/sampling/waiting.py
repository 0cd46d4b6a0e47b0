"""Asynchronous work from synchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first error ends the others."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns; in a thread of its own where this one runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    outcome: list[T] = []
    problem: list[BaseException] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())

    def work_here() -> None:
        try:
            outcome.append(loop.run_until_complete(task))
        except BaseException as error:  # it is raised again where it was waited for
            problem.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=work_here, name="waiting", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # Ctrl-C: what is under way ends first
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if problem:
        raise problem[0]
    return outcome[0]
