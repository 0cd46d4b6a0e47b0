"""Batches that are laid out by other threads while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from posttrain.sources.offline import OfflineSource
from posttrain.types import Batch, Metrics


@dataclass(frozen=True, kw_only=True)
class _Coming:
    """A batch that is being laid out, and where the source stands once it was given out."""

    batch: Future[Batch]
    epoch: float
    state: dict[str, Any]


class AheadSource:
    """The batches of `source` in the same order, `workers x prefetch` of them laid out ahead.

    What it says of itself is where the batch it gave out last stands, so a checkpoint knows nothing of those ahead.
    """

    def __init__(self, source: OfflineSource, *, workers: int, prefetch: int = 2) -> None:
        self._source, self._depth = source, workers * prefetch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        self._coming: deque[_Coming] = deque()
        self._epoch, self._state = source.epoch, source.state_dict()

    @property
    def epoch(self) -> float:
        return self._epoch

    def next(self) -> Batch:
        """This process's share of the next step; those after it are begun first."""
        while len(self._coming) <= self._depth:
            lay = self._source.take()
            epoch, state = self._source.epoch, self._source.state_dict()
            self._coming.append(_Coming(batch=self._pool.submit(lay), epoch=epoch, state=state))
        first = self._coming.popleft()
        self._epoch, self._state = first.epoch, first.state
        return first.batch.result()

    def end_epoch(self) -> None:
        """Leaves out what is left of the epoch."""
        self._go_back()
        self._source.end_epoch()
        self._epoch, self._state = self._source.epoch, self._source.state_dict()

    def _go_back(self) -> None:
        """Forgets what was laid out ahead."""
        self._coming.clear()
        self._source.go_to(self._state)

    def metrics(self) -> Metrics:
        return self._source.metrics()

    def observe(self, metrics: Mapping[str, float]) -> None:
        self._source.observe(metrics)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the source's own; what was laid out ahead is forgotten."""
        self._coming.clear()
        self._source.load_state_dict(state)
        self._epoch, self._state = self._source.epoch, self._source.state_dict()
