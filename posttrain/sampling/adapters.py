"""A LoRA adapter added into the weights for the time of sampling, which are then put back as they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer

from posttrain.errors import ConfigError, ModelError

CHOICES = ("auto", "merge", "apply")


def to_merge(model: Any, choice: str) -> bool:
    """Whether the model's adapter is to be merged: by choice, or "auto" where that is exact and possible.

    In formats shorter than float32 merging rounds a part of the adapter away, so that the log-probabilities are not
    the trained model's. Raises ConfigError where it is asked for and impossible.
    """
    if choice not in CHOICES:
        raise ConfigError(f"adapter={choice!r} must be one of {', '.join(CHOICES)}")
    if choice == "apply" or not isinstance(model, PeftModel):
        return False
    obstacle = _obstacle(model)
    if choice == "merge" and obstacle:
        raise ConfigError(f"adapter='merge' is impossible: {obstacle}. Use adapter='apply'.")
    return not obstacle and (choice == "merge" or model.dtype == torch.float32)


def _layers(model: PeftModel) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _obstacle(model: PeftModel) -> str:
    """Why merging cannot be undone exactly or changes more than it should; empty if nothing speaks against it."""
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for layer in _layers(model):
        if type(layer) not in (lora.Linear, lora.Embedding):
            return f"the adapter has a layer of type {type(layer).__name__}"
        if layer.disable_adapters:
            return "the adapter is switched off"
        if layer.merged:
            return "the adapter is merged already"
        if owners[id(layer.get_base_layer().weight)] > 1:
            return "the adapter is on a matrix that another layer uses, too"
    return ""


@contextmanager
def merged(model: PeftModel) -> Iterator[None]:
    """The adapter's layers as single matrices; afterwards the very tensors that were there before."""
    kept: list[tuple[Any, dict[str, Any], list[tuple[torch.nn.Parameter, torch.Tensor]]]] = []
    try:
        for layer in _layers(model):
            tensors = [(p, p.data) for p in layer.get_base_layer().parameters(recurse=False)]
            kept.append((layer, dict(getattr(layer, "_caches", {})), tensors))
            with torch.no_grad():
                layer.merge(safe_merge=True)  # into new tensors; the old ones stay untouched
        yield
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise ModelError(f"the adapter holds values that are no numbers: {error}") from error
    finally:
        for layer, caches, tensors in kept:
            for parameter, data in tensors:
                parameter.data = data
            layer.merged_adapters.clear()
            if hasattr(layer, "_caches"):
                layer._caches = caches
