"""A callback that times a trainer's own loop, and ends it when enough was seen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import TrainerCallback

from posttrain.engine.machine import peak_bytes, resident_bytes

WARM_UP = 2  # steps that pay for memory touched the first time and for what is made when first needed
ENOUGH = 8  # cycles of steps after these, once their times agree to SURE
LEAST = 0.3  # of the time to try, in any case: a machine is not equally fast in every second
SURE = 0.03  # standard error of the mean time, of the mean

Tell = Callable[..., None]


class TrialOver(BaseException):
    """Enough was seen: no error, so that nothing on its way takes it for one, and nothing after it is done."""


class Stopwatch(TrainerCallback):
    """Tells of every step its seconds and tokens, and of an evaluation and a checkpoint what they took.

    `cycle` is the number of steps made of one rollout. With `evaluates` the loop evaluates twice, with `saves` it
    writes two checkpoints. Without `ends` it raises TrialOver after the training, before a model is written.
    """

    def __init__(
        self, tell: Tell, *, cycle: int, seconds: float, evaluates: bool, saves: bool, ends: bool = True
    ) -> None:
        self._tell, self._cycle, self._seconds = tell, cycle, seconds
        self._evaluates, self._saves, self._ends = evaluates, saves, ends
        self._evaluated = self._saved = 0
        self._mark = self._step = self._began = time.perf_counter()
        self._optimizer = self._optimizer_began = 0.0
        self._tokens = 0
        self._source = 0.0
        self._cycles: list[list[float]] = []  # (seconds, tokens) of the cycles that count
        self._current = [0.0, 0.0]
        self._hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_update),
            register_optimizer_step_post_hook(self._after_update),
        ]
        fields = ("bf16", "dtype", "max_tokens_per_pass", "num_threads", "gradient_checkpointing")
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._tell(
            "begin",
            seconds=time.perf_counter() - self._mark,
            uses={name: getattr(args, name) for name in fields} | {"device": str(device)},
            resident=resident_bytes(),
        )
        self._mark = self._began = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step = time.perf_counter()
        self._source = self._step - self._mark

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        tokens, self._tokens = state.num_input_tokens_seen - self._tokens, state.num_input_tokens_seen
        self._tell(
            "step", number=state.global_step, source=self._source, step=now - self._step,
            optimizer=self._optimizer, tokens=tokens, **peaks(),
        )  # fmt: skip
        self._optimizer = 0.0
        self._count(state.global_step, self._source + now - self._step, tokens)
        timed = len(self._cycles)
        if self._evaluates and self._evaluated < 2 and timed > self._evaluated:
            control.should_evaluate = True
        if self._saves and self._saved < 2 and timed > self._saved:
            control.should_save = True
        spent = (now - self._began) / self._seconds
        if (timed >= ENOUGH and spent > LEAST and self._sure()) or spent > 1:
            control.should_training_stop = True
        self._mark = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._evaluated += 1
        self._tell("evaluation", seconds=time.perf_counter() - self._mark, **peaks())
        self._mark = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved += 1
        place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._tell("checkpoint", seconds=time.perf_counter() - self._mark, bytes=size_of(place), **peaks())
        self._mark = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.detach()
        self._tell("trained", **peaks())
        if not self._ends:
            raise TrialOver

    def detach(self) -> None:
        """Takes the hooks away; the optimisers of this process are nobody's concern any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _count(self, step: int, seconds: float, tokens: int) -> None:
        self._current[0] += seconds
        self._current[1] += tokens
        if step % self._cycle == 0:
            if step > skipped(self._cycle):
                self._cycles.append(self._current)
            self._current = [0.0, 0.0]

    def _sure(self) -> bool:
        rates = [seconds / max(tokens, 1) for seconds, tokens in self._cycles]
        return statistics.stdev(rates) / len(rates) ** 0.5 < SURE * statistics.fmean(rates)

    def _before_update(self, *_: Any) -> None:
        self._optimizer_began = time.perf_counter()

    def _after_update(self, optimizer: Any, *_: Any) -> None:
        self._optimizer += time.perf_counter() - self._optimizer_began


def skipped(cycle: int) -> int:
    """The first steps that do not count, whole cycles of them."""
    return -(-WARM_UP // cycle) * cycle if cycle < WARM_UP else cycle


def peaks() -> dict[str, int]:
    """The most memory so far, of the process and on its GPU."""
    on_gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() and torch.cuda.is_initialized() else 0
    return {"peak": peak_bytes(), "gpu_peak": on_gpu}


def size_of(directory: Path) -> int:
    """Bytes of the files below."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
