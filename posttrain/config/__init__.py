"""The configuration models. Nothing here reaches torch, so that `posttrain --help` is instant."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.config.base import Config
    from posttrain.config.dpo import DPOConfig
    from posttrain.config.gate import GateConfig
    from posttrain.config.grpo import GRPOConfig
    from posttrain.config.recipe import Recipe, load_recipe
    from posttrain.config.reward import RewardConfig
    from posttrain.config.sft import SFTConfig
    from posttrain.config.training import TrainingConfig

_HOME = {
    "Config": "posttrain.config.base",
    "TrainingConfig": "posttrain.config.training",
    "SFTConfig": "posttrain.config.sft",
    "DPOConfig": "posttrain.config.dpo",
    "GRPOConfig": "posttrain.config.grpo",
    "RewardConfig": "posttrain.config.reward",
    "GateConfig": "posttrain.config.gate",
    "Recipe": "posttrain.config.recipe",
    "load_recipe": "posttrain.config.recipe",
}

__all__ = [
    "Config",
    "DPOConfig",
    "GRPOConfig",
    "GateConfig",
    "Recipe",
    "RewardConfig",
    "SFTConfig",
    "TrainingConfig",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
