"""Optimisers and learning-rate schedules by the names that transformers gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler
from transformers.optimization import Adafactor

from posttrain.config.training import TrainingConfig
from posttrain.errors import ConfigError


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> Optimizer:
    """The optimiser named in `config.optim`. Weight decay applies to matrices, not to biases and norms."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    lr = config.learning_rate
    if config.optim in ("adamw_torch", "adamw_torch_fused"):  # the same mathematics; fused is the faster
        return torch.optim.AdamW(
            groups, lr=lr, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon, fused=True
        )
    if config.optim == "adafactor":
        return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)
    plain = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}
    return plain[config.optim](groups, lr=lr)


def make_scheduler(optimizer: Optimizer, config: TrainingConfig, max_steps: int) -> LRScheduler:
    """The schedule named in `config.lr_scheduler_type`; warm-up below 1 is a share of all steps.

    Raises ConfigError for `lr_scheduler_kwargs` that the schedule lacks or does not know.
    """
    warmup = config.warmup_steps
    options: dict[str, Any] = config.lr_scheduler_kwargs or {}
    try:
        return get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=math.ceil(warmup * max_steps) if warmup < 1 else int(warmup),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"lr_scheduler_type={config.lr_scheduler_type!r} cannot be made with lr_scheduler_kwargs={options}: {error}"
        ) from error
