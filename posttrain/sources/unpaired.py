"""Batches of answers marked good or bad, with the baseline that a whole step's answers have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch

from posttrain.algorithms.unpaired import UnpairedBatch
from posttrain.engine.runtime import Runtime
from posttrain.types import Metrics, Source


class Baseline(Protocol):
    """What rewards are compared with. Every process asks at the same time, and gets the same answer."""

    def __call__(self, batch: UnpairedBatch) -> float:
        """The baseline of a step, of which `batch` is this process's share."""
        ...

    def observe(self, kinds: Mapping[str, tuple[float, float]]) -> None:
        """Told after a step, of "chosen" and "rejected": the mean reward and how many answers there were."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Zero:
    """The baseline of losses without one. It has no state."""

    def __call__(self, batch: UnpairedBatch) -> float:
        return 0.0

    def observe(self, kinds: Mapping[str, tuple[float, float]]) -> None:
        """Nothing depends on the rewards."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is none."""


class Middle:
    """delta of BCO: halfway between the mean rewards of good and of bad answers of all steps before this one.

    delta = 1/2 E[reward | good] + 1/2 E[reward | bad], arXiv:2404.04656; of one kind alone as long as the other was not
    seen, and 0 at first.
    """

    def __init__(self) -> None:
        self._sums = {"chosen": [0.0, 0.0], "rejected": [0.0, 0.0]}  # of rewards, and their number

    def __call__(self, batch: UnpairedBatch) -> float:
        means = [total / count for total, count in self._sums.values() if count]
        return sum(means) / len(means) if means else 0.0

    def observe(self, kinds: Mapping[str, tuple[float, float]]) -> None:
        for kind, (mean, count) in kinds.items():
            if math.isfinite(mean):  # else the step was skipped
                self._sums[kind][0] += mean * count
                self._sums[kind][1] += count

    def state_dict(self) -> dict[str, Any]:
        return {kind: list(pair) for kind, pair in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {kind: list(state[kind]) for kind in self._sums}


def with_baseline(batch: UnpairedBatch, baseline: Baseline, runtime: Runtime) -> tuple[UnpairedBatch, list[float]]:
    """The batch with its baseline and shares, and the good and bad answers of all processes. All of them take part."""
    good = float(batch.desirable.sum())
    rows = runtime.gather([good, len(batch.desirable) - good])
    counts = [sum(column) for column in zip(*rows)]
    of_good, of_bad = (torch.tensor(1 / count if all(counts) else 0.0) for count in counts)
    filled = replace(
        batch,
        baseline=torch.full_like(batch.baseline, baseline(batch)),
        shares=torch.where(batch.desirable, of_good, of_bad),
    )
    return filled, counts


class EpochSource(Source, Protocol):
    """A source that passes over rows again and again."""

    def end_epoch(self) -> None:
        """Leaves out what is left of the epoch."""
        ...


class UnpairedSource:
    """The batches of `source` with their baseline."""

    def __init__(self, source: EpochSource, baseline: Baseline, runtime: Runtime) -> None:
        self._source, self._baseline, self._runtime = source, baseline, runtime
        self._counts = [0.0, 0.0]

    @property
    def epoch(self) -> float:
        return self._source.epoch

    def next(self) -> UnpairedBatch | None:
        """The next step's batch, with the baseline under the policy as it is now."""
        batch = self._source.next()
        if batch is None:
            return None
        assert isinstance(batch, UnpairedBatch)
        filled, self._counts = with_baseline(batch, self._baseline, self._runtime)
        return filled

    def end_epoch(self) -> None:
        """Leaves out what is left of the epoch."""
        self._source.end_epoch()

    def metrics(self) -> Metrics:
        return self._source.metrics()

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Told of a step: its rewards are known to the next baseline."""
        kinds = dict(zip(("chosen", "rejected"), self._counts))
        self._baseline.observe(
            {kind: (metrics[f"rewards/{kind}"], n) for kind, n in kinds.items() if f"rewards/{kind}" in metrics}
        )
        self._source.observe(metrics)

    def state_dict(self) -> dict[str, Any]:
        return {**self._source.state_dict(), "baseline": self._baseline.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._source.load_state_dict(state)
        self._baseline.load_state_dict(state["baseline"])
