"""What can be known to go wrong before a model is loaded, and how many steps a run takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from posttrain.config.training import TrainingConfig
from posttrain.engine.callbacks import check_callbacks
from posttrain.engine.checkpoint import find_checkpoint
from posttrain.engine.optimizers import make_scheduler
from posttrain.engine.trackers import chosen
from posttrain.errors import ConfigError
from posttrain.models.lora_settings import lora_config
from posttrain.sources.offline import steps_per_epoch


class Report(Protocol):
    """What became of a dataset's rows."""

    @property
    def lengths(self) -> Mapping[str, int]: ...

    def text(self) -> str: ...

    def as_dict(self) -> dict[str, Any]: ...


class Data(Protocol):
    """A dataset made ready: trees, or prompts."""

    @property
    def report(self) -> Report: ...

    def __len__(self) -> int: ...


def rows_per_step(config: TrainingConfig, world_size: int) -> int:
    """Rows that one optimiser step averages, over all processes."""
    processes = 1 if config.splits_batches else world_size
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * processes


def count_steps(config: TrainingConfig, rows: int, world_size: int) -> int:
    """Optimiser steps of the whole run. Raises ConfigError when the rows do not fill one."""
    needed = rows_per_step(config, world_size)
    per_epoch = steps_per_epoch(rows, needed, config.dataloader_drop_last)
    if per_epoch == 0:
        raise ConfigError(
            f"dataloader_drop_last=True leaves nothing: {rows} rows do not fill a step of {needed}. Lower "
            "per_device_train_batch_size or gradient_accumulation_steps."
        )
    return config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * per_epoch)


def check_positions(model: Any, *datasets: Data | None, room: int = 0) -> list[str]:
    """A note for rows longer than the model was made for, with `room` for what is written after them.

    Raises ConfigError where the model would compute them wrongly.
    """
    longest = max((data.report.lengths["longest"] for data in datasets if data is not None), default=0) + room
    shape = model.config.get_text_config()
    limit = getattr(shape, "max_position_embeddings", None)
    if limit is None:
        return []
    rotary = getattr(shape, "rope_parameters", None) or {}
    kinds = [rotary, *(part for part in rotary.values() if isinstance(part, dict))]
    scaled = [part for part in kinds if part.get("rope_type") in ("dynamic", "longrope")]
    if scaled:
        short = min(part.get("original_max_position_embeddings") or limit for part in scaled)
        if longest > short:
            raise ConfigError(
                f"the longest row has {longest} tokens. Beyond {short} this model scales positions by the longest row "
                f"of a batch, and a row's loss would depend on its neighbours: set max_length={short}"
            )
    embeddings = [part for part in model.modules() if isinstance(part, torch.nn.Embedding)]
    words = model.get_input_embeddings()
    learned = any(limit <= part.num_embeddings <= limit + 2 for part in embeddings if part is not words)
    if longest <= limit:
        return []
    if room:
        raise ConfigError(
            f"the longest prompt has {longest - room} tokens, and with max_completion_length={room} that is more than "
            f"the {limit} positions of the model: "
            + (f"set max_completion_length={limit - longest + room}, " if longest - room < limit else "")
            + "or leave out the longest prompts"
        )
    if learned:
        raise ConfigError(f"the longest row has {longest} tokens, the model {limit} positions: set max_length={limit}")
    return [f"rows of up to {longest} tokens are longer than the {limit} that the model was made for"]


def check_before_loading(
    config: TrainingConfig,
    *,
    callbacks: Sequence[Any] | None,
    train: Data | None,
    evaluation: Data | None,
    peft_config: Any,
    count: Callable[[int], int],
) -> None:
    """Raises for a setting that would stop the run later, when hours may have gone into it."""
    if peft_config is not None:
        lora_config(peft_config)
    check_callbacks(callbacks or (), config)
    chosen(config.report_to)
    if evaluation is None and (config.eval_strategy != "no" or config.eval_on_start or config.do_eval):
        raise ConfigError(
            f"eval_strategy={config.eval_strategy!r}, eval_on_start={config.eval_on_start}, do_eval={config.do_eval}: "
            "there is nothing to evaluate on. Pass an eval_dataset, or leave them out."
        )
    if config.resume_from_checkpoint:
        find_checkpoint(Path(config.output_dir), config.resume_from_checkpoint)
    if train is not None:
        idle = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
        make_scheduler(idle, config, count(len(train)))
