"""How fast a server may be asked: so much a minute, evenly spread, and not before it wants to be asked again."""

from __future__ import annotations

import asyncio
import threading
import time

_LOOK_AGAIN_S = 0.25  # a turn may come sooner than it looked, when less was used than was reckoned with


class Pace:
    """Turns at a rate; None is no limit. It holds across event loops and threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock
        self._lock = threading.Lock()

    async def turn(self, cost: float = 1) -> None:
        """Waits until it is this one's turn; the next one comes after what `cost` takes at the rate."""
        while (wait := self.take(cost)) > 0:
            await asyncio.sleep(min(wait, _LOOK_AGAIN_S))

    def blocking_turn(self, cost: float = 1) -> None:
        """The same where there is no event loop."""
        while (wait := self.take(cost)) > 0:
            time.sleep(min(wait, _LOOK_AGAIN_S))

    def take(self, cost: float = 1) -> float:
        """Zero, and the turn is taken; or the seconds that it is still away."""
        with self._lock:
            now = time.monotonic()
            if self._free_at > now:
                return self._free_at - now
            self._free_at = now + cost * self._seconds_each
            return 0.0

    def correct(self, more: float) -> None:
        """Says how much more (or, negative, less) was used than the turn was taken for."""
        with self._lock:
            self._free_at += more * self._seconds_each

    def hold(self, seconds: float) -> None:
        """Gives no turn for so long."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + seconds)
