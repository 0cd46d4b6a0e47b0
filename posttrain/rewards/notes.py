"""What a reward function may see of its run and note beside its values, under the keywords of TRL.

`trainer_state` is the state of the run; `log_extra(column, values)` keeps a value for each completion, beside it in
`samples.jsonl`; `log_metric(name, value)` adds a number to the metrics, averaged until they are logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.errors import RewardError
from posttrain.types import Metrics

KEYWORDS = ("trainer_state", "log_extra", "log_metric")


class RewardNotes:
    """Collects what the functions note; `state` gives the run's state as it is."""

    def __init__(self, state: Callable[[], Any]) -> None:
        self._state = state
        self._columns: dict[str, list[Any]] = {}
        self._metrics: dict[str, tuple[float, float]] = {}

    def keywords(self) -> dict[str, Any]:
        """The arguments for the functions that take them."""
        return dict(zip(KEYWORDS, (self._state(), self._log_extra, self._log_metric)))

    def take_columns(self, count: int) -> list[dict[str, Any]]:
        """What was noted of each of `count` completions since the last time.

        Raises RewardError for a column that does not have a value for each.
        """
        columns, self._columns = self._columns, {}
        for name, values in columns.items():
            if len(values) != count:
                raise RewardError(f"log_extra({name!r}, ...) was given {len(values)} values for {count} completions")
        return [{name: values[index] for name, values in columns.items()} for index in range(count)]

    def take_metrics(self) -> Metrics:
        """The (sum, count) of each number since the last time."""
        metrics, self._metrics = self._metrics, {}
        return dict(metrics)

    def _log_extra(self, column: str, values: Sequence[Any]) -> None:
        self._columns.setdefault(column, []).extend(values)

    def _log_metric(self, name: str, value: float) -> None:
        amount, count = self._metrics.get(name, (0.0, 0.0))
        self._metrics[name] = (amount + float(value), count + 1)


def summed(metrics: Sequence[Mapping[str, Any]]) -> Metrics:
    """The numbers of several processes together."""
    total: dict[str, tuple[float, float]] = {}
    for noted in metrics:
        for name, (amount, count) in noted.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + amount, before[1] + count)
    return dict(total)
