"""An event loop in a thread of its own, for asynchronous rewards: a notebook already runs one in the main thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Sequence
from typing import Any


class EventLoop:
    """One loop for as long as it is open, so that a client which a reward keeps between calls stays with its loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, calls: Sequence[Awaitable[Any]]) -> list[Any]:
        """What the calls return, or the exception of those that raise, in order; they wait at the same time."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
            self._thread.start()

        async def together() -> list[Any]:
            return await asyncio.gather(*calls, return_exceptions=True)

        future = asyncio.run_coroutine_threadsafe(together(), self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: nobody waits for the answers any more
            future.cancel()
            raise

    def close(self) -> None:
        """Ends the loop and what still waits in it; `run` starts a new one."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with contextlib.suppress(TimeoutError):  # one that does not let itself be cancelled ends with the program
            asyncio.run_coroutine_threadsafe(_finish(), loop).result(timeout=5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _finish() -> None:
    """Cancels what still waits, and lets it clean up after itself."""
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
