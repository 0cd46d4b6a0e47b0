"""What a person at the terminal sees of a run: a bar with loss, throughput and time left, and sentences."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


class Console:
    """A process's voice. `hide_bar=None` shows the bar on a terminal only; one that is silent may still warn."""

    def __init__(self, *, silent: bool, hide_bar: bool | None, warns: bool = False) -> None:
        self._silent, self._warns = silent, warns or not silent
        self._hide_bar = True if silent else hide_bar
        self._bar: tqdm | None = None
        self._started, self._tokens = 0.0, 0

    @contextmanager
    def progress(self, *, done: int, total: int) -> Iterator[None]:
        """Shows a bar of optimiser steps inside."""
        with tqdm(initial=done, total=total, disable=self._hide_bar, unit="step") as self._bar:
            self._started, self._tokens = time.perf_counter(), 0
            yield

    def step(self, loss: float, tokens: int) -> None:
        """Moves the bar on by one step."""
        self._tokens += tokens
        rate = self._tokens / (time.perf_counter() - self._started)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} tokens/s", refresh=False)
            self._bar.update(1)

    def say(self, message: str) -> None:
        """Prints above the bar."""
        if not self._silent:
            tqdm.write(message)

    def warn(self, message: str) -> None:
        """Prints what goes wrong, above the bar."""
        if self._warns:
            tqdm.write(message)


@contextmanager
def stop_request(*, terminated: bool = True) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, or SIGTERM unless `terminated` is False; the second interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        tqdm.write("Stopping after this step; Ctrl-C again stops at once, back to the last checkpoint.")

    signals = (signal.SIGINT, signal.SIGTERM) if terminated else (signal.SIGINT,)
    before = {number: signal.signal(number, request) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
