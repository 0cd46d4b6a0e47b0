"""The memory that follows from shapes and settings, worked by hand and against the optimisers' own state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posttrain.config.grpo import GRPOConfig
from posttrain.config.sft import SFTConfig
from posttrain.engine.optimizers import make_optimizer
from posttrain.recipes.estimating.composition import compose, composition

CPU = torch.device("cpu")
# qwen2, 32 wide: q 32x32+32, k and v 32x16+16, o 32x32, three of 32x64, two norms
LAYER = 1056 + 2 * 528 + 1024 + 3 * 2048 + 64
EMBEDDING = 384 * 32
TOTAL = 2 * EMBEDDING + 2 * LAYER + 32
# rank 4: r (in + out) for each of q, k, v, o, gate, up, down
ADAPTER = 2 * 4 * (64 + 48 + 48 + 64 + 96 + 96 + 96)


def test_a_whole_model_by_hand(tiny_model_dir: Callable[..., str]) -> None:
    made = compose(tiny_model_dir(vocab_size=384), SFTConfig(), adapter=None, scores=False, device=CPU)
    assert TOTAL == 43296
    assert made.parameters == made.trained == TOTAL
    assert made.parts() == {"weights": 4 * TOTAL, "gradients": 4 * TOTAL, "optimizer": 8 * TOTAL, "reference": 0}
    assert made.held == 16 * TOTAL
    assert made.model_file == 4 * TOTAL
    assert made.checkpoint == 12 * TOTAL


def test_an_adapter_by_hand(tiny_model_dir: Callable[..., str]) -> None:
    model, adapter = tiny_model_dir(vocab_size=384), {"r": 4, "lora_alpha": 8}
    made = compose(model, SFTConfig(dtype="bfloat16"), adapter=adapter, scores=False, device=CPU)
    assert made.trained == ADAPTER
    assert made.parameters == TOTAL + ADAPTER
    # the adapter is float32 on weights of two bytes
    assert made.weights == 2 * TOTAL + 4 * ADAPTER
    assert made.gradients == 4 * ADAPTER
    assert made.optimizer == 8 * ADAPTER
    assert made.model_file == 2 * TOTAL
    assert made.checkpoint == 12 * ADAPTER


def test_what_looks_back_keeps_the_start(tiny_model_dir: Callable[..., str]) -> None:
    model = tiny_model_dir(vocab_size=384)
    online = GRPOConfig(num_generations=2)
    assert compose(model, online, adapter=None, scores=False, device=CPU).reference == 4 * TOTAL
    blind = online.replace(track_kl=False)
    assert compose(model, blind, adapter=None, scores=False, device=CPU).reference == 0


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_the_optimizer_keeps_what_was_said(optim: str) -> None:
    parameters = [torch.nn.Parameter(torch.ones(6, 4)), torch.nn.Parameter(torch.ones(5))]
    optimizer = make_optimizer(parameters, SFTConfig(optim=optim))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    found = sum(value.numel() * value.element_size() for value in kept if value.ndim)
    shapes = [(tuple(parameter.shape), True) for parameter in parameters]
    assert composition(shapes, bytes_each=4, optim=optim, keeps_start=False).optimizer == found
