"""What the training loop is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from posttrain.engine.alarms import Watch
from posttrain.engine.callbacks import Callbacks
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, LossFunction
from posttrain.types import Source


class MetricsSink(Protocol):
    """Where metrics go beside `metrics.jsonl`."""

    def start(self, *, resumed_at: int | None) -> None:
        """Told once, before the first metric; `resumed_at` is the step of the checkpoint that the run goes on from."""
        ...

    def log(self, metrics: Mapping[str, Any], step: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything the loop works with. It names no algorithm."""

    learner: nn.Module  # wrapped for its processes
    source: Source
    loss: LossFunction
    optimizer: Optimizer
    scheduler: LRScheduler
    runtime: Runtime
    budget: Budget
    write_model: Callable[[Path], None]  # fills a checkpoint's directory
    read_model: Callable[[Path], None]  # restores the weights from it
    evaluate: Callable[[], dict[str, float]] | None = None
    measure: Callable[[int], dict[str, float]] | None = None  # the start (0), and each checkpoint about to be written
    probe: Callable[[int], dict[str, float]] | None = (
        None  # the start (0), and the model every `drift_steps`; of one process
    )
    make_room: Callable[[], bool] | None = None
    needs: Sequence[str] = ()  # of the model in every step, beside the log-probabilities
    watch: Watch | None = None
    stop_on: frozenset[str] = frozenset()  # the alarms that end the run
    measured: frozenset[str] = frozenset()  # settings that were picked by measurement, not asked for
    callbacks: Callbacks = field(default_factory=Callbacks)
    callback_context: Mapping[str, Any] = field(default_factory=dict)
    trackers: MetricsSink | None = None
