"""An event loop in a thread of its own, for asynchronous rewards: a notebook already runs one in the main thread."""

from __future__ import annotations

import asyncio
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
        """Ends the loop; `run` starts a new one."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            if not self._thread.is_alive():
                self._loop.close()
        self._loop = self._thread = None
