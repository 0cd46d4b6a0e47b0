"""Adapters that begin as a part of the base, which the base then lacks: PiSSA (arXiv:2404.02948) and OLoRA.

With W the weight, s the scale and A₀, B₀ the start, the base becomes W - s B₀A₀ and the model is W - s B₀A₀ + s BA. The
base alone is no model that anyone knows, so the adapter is handed on as an ordinary one of twice the rank,
ΔW = [sB, -sB₀][A; A₀], which belongs to W.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from posttrain.errors import ModelError

START = "start_of_adapter"  # an attribute of the model: the adapter's tensors before training, by their names
TRAINING_FILE = "adapter_training.safetensors"
_NOW, _BEFORE = "now.", "start."


def remember_start(model: PeftModel) -> None:
    """Keeps the adapter as it is now, on the CPU, as what it began as."""
    setattr(model, START, {name: value for name, value in _tensors(model).items() if _is_factor(name)})


def start_of(model: PeftModel) -> dict[str, Tensor]:
    """What the adapter began as; empty where its base is the model that it was put onto."""
    return getattr(model, START, {})


def save_started(model: PeftModel, adapter: str, directory: Path) -> None:
    """Writes the adapter as an ordinary one, and beside it what `load_started` needs."""
    save_ordinary(model, adapter, directory)
    kept = {_NOW + name: value for name, value in _tensors(model, adapter).items()}
    save_file({**kept, **{_BEFORE + name: value for name, value in start_of(model).items()}}, directory / TRAINING_FILE)


def load_started(model: PeftModel, adapter: str, directory: Path) -> dict[str, Tensor]:
    """The adapter's tensors as `save_started` found them; the base becomes the one that they were trained on.

    A start is computed anew when a run goes on, and on another machine it may come out otherwise.
    """
    file = directory / TRAINING_FILE
    if not file.is_file():
        raise ModelError(f"{directory} has no {TRAINING_FILE}: it is no checkpoint of an adapter with such a start.")
    saved = load_file(file)
    start = {name.removeprefix(_BEFORE): value for name, value in saved.items() if name.startswith(_BEFORE)}
    now = start_of(model)
    if start.keys() != now.keys() or any(start[name].shape != now[name].shape for name in start):
        raise ModelError(f"the adapter in {directory} has other layers or ranks than the model's.")
    for prefix, layer in _layers(model):
        if any(not torch.equal(start[name], now[name]) for name in _factors(prefix)):
            weight = layer.get_base_layer().weight
            difference = _product(now, prefix, layer, adapter) - _product(start, prefix, layer, adapter)
            weight.data += difference.to(weight)
    setattr(model, START, start)
    return {name.removeprefix(_NOW): value for name, value in saved.items() if name.startswith(_NOW)}


def save_ordinary(model: PeftModel, adapter: str, directory: Path) -> None:
    """Writes the adapter as one of twice the rank that belongs to the model it was put onto, whatever its scale."""
    tensors, start = _tensors(model, adapter), start_of(model)
    for prefix, layer in _layers(model):
        a, b = _factors(prefix)
        scale = layer.scaling[adapter]
        tensors[a] = torch.cat([tensors[a], start[a]], dim=0)
        tensors[b] = torch.cat([scale * tensors[b], -scale * start[b]], dim=1)
    config: Any = copy.deepcopy(model.peft_config[adapter])
    config.r, config.rank_pattern = 2 * config.r, {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    config.lora_alpha, config.alpha_pattern = config.r, dict(config.rank_pattern)  # the scale is in B
    config.init_lora_weights, config.use_rslora, config.inference_mode = True, False, True
    directory.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(directory))
    save_file({name: value.contiguous() for name, value in tensors.items()}, directory / SAFETENSORS_WEIGHTS_NAME)


def _tensors(model: PeftModel, adapter: str | None = None) -> dict[str, Tensor]:
    name = adapter or str(model.active_adapter)
    found = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {key: value.detach().cpu().clone() for key, value in found.items()}


def _layers(model: PeftModel) -> list[tuple[str, Any]]:
    """The layers whose start was taken out of them, with their names."""
    start = start_of(model)
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and _factors(name)[0] in start
    ]


def _factors(prefix: str) -> tuple[str, str]:
    return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"


def _is_factor(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_B.weight"))


def _product(tensors: dict[str, Tensor], prefix: str, layer: Any, adapter: str) -> Tensor:
    a, b = (tensors[name].float() for name in _factors(prefix))
    product = layer.scaling[adapter] * (b @ a)
    return product.T if layer.fan_in_fan_out else product
