"""A source whose batches depend on a reference model that follows the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posttrain.sources.offline import OfflineSource
from posttrain.types import Batch, Metrics


class FollowingSource:
    """The batches of `source`, with `follow` called after every `steps` of them were trained on."""

    def __init__(self, source: OfflineSource, follow: Callable[[], None], *, steps: int) -> None:
        self._source, self._follow, self._steps = source, follow, steps

    @property
    def epoch(self) -> float:
        return self._source.epoch

    def next(self) -> Batch:
        """The next step's batch, made with the reference as it is now."""
        return self._source.next()

    def end_epoch(self) -> None:
        """Leaves out what is left of the epoch."""
        self._source.end_epoch()

    def metrics(self) -> Metrics:
        return self._source.metrics()

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Told of a step: the reference moves when it is due."""
        self._source.observe(metrics)
        if self._source.given % self._steps == 0:
            self._follow()

    def state_dict(self) -> dict[str, Any]:
        return self._source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._source.load_state_dict(state)
