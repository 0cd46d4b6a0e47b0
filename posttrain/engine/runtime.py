"""The processes of a run: which device, how many, and what they tell each other."""

from __future__ import annotations

import datetime
import logging
import random
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from posttrain.config.machine import MachineConfig
from posttrain.engine.loss_scale import LossScale


class Runtime:
    """One process's view of the run, on accelerate: started alone, by `torchrun` or by `accelerate launch`."""

    def __init__(self, *, use_cpu: bool = False, config: MachineConfig | None = None) -> None:
        """Without a `config`, one process or several as its defaults have it."""
        config = config or MachineConfig(use_cpu=use_cpu)
        if not torch.distributed.is_initialized():
            # accelerate keeps the first choice of device for the whole process; a second trainer chooses anew
            AcceleratorState._reset_state(reset_partial_state=True)
            PartialState._reset_state()
            GradientState._reset_state()
        self._accelerator = Accelerator(cpu=config.use_cpu, kwargs_handlers=_handlers(config))
        self._config = config
        self.average_tokens = config.average_tokens_across_devices
        self.autocast_dtype: torch.dtype | None = None
        self.loss_scale: LossScale | None = None  # of float16

    @property
    def device(self) -> torch.device:
        return self._accelerator.device

    @property
    def rank(self) -> int:
        return self._accelerator.process_index

    @property
    def world_size(self) -> int:
        return self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self._accelerator.is_main_process

    def speaks(self, level: int = logging.INFO) -> bool:
        """Whether this process says messages of such a level: log_level, log_level_replica."""
        return self._config.speaks(self.rank, level)

    def prepare(self, learner: nn.Module) -> nn.Module:
        """The learner on its device, wrapped for data parallelism where there are several processes."""
        return self._accelerator.prepare_model(learner)

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Backward passes inside do not exchange gradients."""
        return self._accelerator.no_sync(wrapped)

    def autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """The precision of the model's forward pass; `dtype` names another."""
        dtype = dtype or self.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def empty_cache(self) -> None:
        """Gives memory that torch holds and does not use back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def gather(self, values: Iterable[float]) -> list[list[float]]:
        """Every process's values, in the order of processes. One exchange."""
        mine = [float(value) for value in values]
        if self.world_size == 1:
            return [mine]
        table = torch.tensor([mine], dtype=torch.float64, device=self.device)
        return self._accelerator.gather(table).tolist()

    def gather_objects(self, mine: Any) -> list[Any]:
        """Every process's object, in the order of processes."""
        if self.world_size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(everyone, mine)
        return everyone

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sums over all processes. Every process must name the same things in the same order."""
        return {name: sum(column) for name, column in zip(values, zip(*self.gather(values.values())))}


def _handlers(config: MachineConfig) -> list[Any]:
    """What accelerate is told of the processes: how long they wait, over what they speak, what DDP does."""
    # one process measures or saves while the others wait, and a rollout takes as long as it takes
    group = InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=config.ddp_timeout))
    group.backend = config.ddp_backend or group.backend
    asked = {
        "find_unused_parameters": config.ddp_find_unused_parameters,
        "bucket_cap_mb": config.ddp_bucket_cap_mb,
        "broadcast_buffers": config.ddp_broadcast_buffers,
        "static_graph": config.ddp_static_graph,
    }
    return [group, DistributedDataParallelKwargs(**{name: value for name, value in asked.items() if value is not None})]


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator, in types that `torch.load(weights_only=True)` reads."""
    version, internal, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [keys, int(numpy["state"]["pos"]), int(numpy["has_gauss"]), float(numpy["gauss"])],
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device.type).get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts every generator back to where `random_state` found it."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device.type).set_rng_state(state["device"])
