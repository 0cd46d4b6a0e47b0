"""Finds the module in which numbers stop being finite: transformers' debug="underflow_overflow"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import TrainingError


@contextmanager
def finite_modules(wanted: bool, model: nn.Module) -> Iterator[None]:
    """Inside, a module that makes infinite numbers, or none, of finite ones raises TrainingError with its name."""
    if not wanted:
        yield
        return

    def look_at(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if bad := [kind for tensor in _tensors(output) if (kind := _what_is_wrong(tensor))]:
                weights = [n for n, p in module.named_parameters(recurse=False) if _what_is_wrong(p)]
                came = "not finite either" if any(map(_what_is_wrong, _tensors(inputs))) else "finite"
                raise TrainingError(
                    f"{name or 'the model'} ({type(module).__name__}) gave {bad[0]}; what it was given is {came}"
                    + (f", its own {', '.join(weights)} is not" if weights else "")
                    + ". Look at the weights that are loaded, and lower learning_rate; bf16 overflows less than fp16."
                )

        return look

    hooks = [module.register_forward_hook(look_at(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


@torch.no_grad()
def _what_is_wrong(tensor: Tensor) -> str:
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return ""
    return f"{int(tensor.isnan().sum())} nan and {int(tensor.isinf().sum())} inf of {tensor.numel()} numbers"
