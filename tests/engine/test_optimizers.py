"""Optimisers by name: what their arguments do, and what is said of those that are not there."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from posttrain.config import SFTConfig
from posttrain.engine.galore import GaLoreAdamW, projector
from posttrain.engine.optimizers import OPTIMIZERS, make_optimizer, parse_optim_args
from posttrain.errors import ConfigError


def made(parameters, **fields):
    return make_optimizer(parameters, SFTConfig(**fields))


def one(**fields):
    """The optimiser of a single weight of 1 with a gradient of 2, after one step."""
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = made([weight], **fields)
    weight.grad = torch.full((1, 1), 2.0)
    optimizer.step()
    return optimizer, float(weight.detach())


@pytest.mark.parametrize(
    ("optim", "weight"),
    [
        ("adamw_torch", 0.9),  # lr x sign
        ("adamw_torch_fused", 0.9),
        ("sgd", 0.8),  # lr x 2
        ("adagrad", 0.9),
        ("rmsprop", 0.0),  # 2 / sqrt(0.01 x 4)
        ("adafactor", 0.9),
        ("galore_adamw", 0.975),  # a quarter of Adam's step
    ],
)
def test_each_optimiser_takes_its_own_step(optim, weight):
    if optim == "galore_adamw":
        linear = nn.Linear(1, 1, bias=False)
        linear.weight.data.fill_(1.0)
        model = nn.Sequential(linear)
        config = SFTConfig(optim=optim, learning_rate=0.1, optim_target_modules="all-linear")
        optimizer = make_optimizer(model.parameters(), config, model=model)
        linear.weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
        assert float(linear.weight.detach()) == pytest.approx(weight, abs=1e-5)
    else:
        assert one(optim=optim, learning_rate=0.1)[1] == pytest.approx(weight, abs=1e-5)


def test_arguments_of_the_optimiser_reach_it():
    optimizer, _ = one(optim="sgd", learning_rate=0.1, optim_args="momentum=0.9, nesterov=true")
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)
    optimizer, _ = one(optim="adamw_torch", optim_args="betas=(0.8, 0.9),eps=1e-3,amsgrad=true")
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert (optimizer.defaults["eps"], optimizer.defaults["amsgrad"]) == (1e-3, True)
    # two steps of momentum 0.5: 1 - 0.1 x 2 - 0.1 x (2 + 0.5 x 2)
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = made([weight], optim="sgd", learning_rate=0.1, optim_args="momentum=0.5")
    for _ in range(2):
        weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
    assert float(weight.detach()) == pytest.approx(0.5)


def test_adam_s_fields_and_weight_decay_reach_it():
    matrix, vector = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    optimizer = made(
        [matrix, vector], learning_rate=0.5, weight_decay=0.1, adam_beta1=0.7, adam_beta2=0.8, adam_epsilon=1e-3
    )
    assert optimizer.defaults["betas"] == (0.7, 0.8)
    assert optimizer.defaults["eps"] == 1e-3
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert float(matrix.detach()) == pytest.approx(0.95)  # 1 - 0.5 x 0.1
    assert float(vector.detach()) == 1.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [("momentum", "name=value"), ("momentun=0.9", "takes no momentun"), ("lr=3", "takes no lr"),
     ("momentum=-1", "cannot be made")],
)  # fmt: skip
def test_arguments_that_are_wrong_are_named(text, problem):
    with pytest.raises(ConfigError, match=problem):
        one(optim="sgd", optim_args=text)


def test_arguments_are_read_as_numbers_truths_and_pairs():
    assert parse_optim_args("a=1e-3, b=(0.5, 0.9),c=false,d=[1,2],e=auto") == {
        "a": 1e-3, "b": (0.5, 0.9), "c": False, "d": (1, 2), "e": "auto",
    }  # fmt: skip
    assert parse_optim_args(None) == {}


@pytest.mark.parametrize("optim", [name for name, entry in OPTIMIZERS.items() if hasattr(entry, "package")])
def test_an_optimiser_of_a_package_that_is_not_there_names_it(optim):
    entry = OPTIMIZERS[optim]
    if importlib.util.find_spec(entry.module.split(".")[0]) is not None:
        pytest.skip(f"{entry.package} is installed")
    with pytest.raises(ConfigError, match=f"pip install {entry.package}"):
        one(optim=optim)


def test_galore_projects_the_layers_named_and_updates_in_their_subspace():
    """A gradient of rank 1 is kept whole by a projection of rank 1: G = 3 u v', P = u, R = 3 v'."""
    model = nn.ModuleDict({"up": nn.Linear(3, 2, bias=False), "other": nn.Linear(3, 2, bias=False)})
    config = SFTConfig(
        optim="galore_adamw", optim_target_modules=["up"], learning_rate=0.1,
        optim_args="rank=1,scale=1.0,update_proj_gap=5",
    )  # fmt: skip
    optimizer = make_optimizer(model.parameters(), config, model=model)
    up, other = model["up"].weight, model["other"].weight
    u, v = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 0.0, 0.0])
    before = up.detach().clone()
    for weight in (up, other):
        weight.grad = 3 * torch.outer(u, v)
    optimizer.step()
    assert optimizer.state[up]["exp_avg"].shape == (1, 3)
    assert optimizer.state[other]["exp_avg"].shape == (2, 3)
    # Adam's first step of R is its sign, so the weights move by lr x u v'
    torch.testing.assert_close(before - up.detach(), 0.1 * torch.outer(u, v), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="names no trained linear layer"):
        make_optimizer(model.parameters(), config.replace(optim_target_modules="attention"), model=model)


def test_the_projector_spans_the_gradient_s_first_directions_on_its_shorter_side():
    tall = torch.diag(torch.tensor([1.0, 3.0, 2.0]))[:, :]
    vectors = projector(torch.cat([tall, torch.zeros(2, 3)]), 2)  # [5, 3]
    assert vectors.shape == (3, 2)
    torch.testing.assert_close(vectors.abs(), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))


def test_galore_without_a_projection_is_adamw():
    weights = [nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))) for _ in range(2)]
    ours = GaLoreAdamW([weights[0]], lr=0.1, weight_decay=0.1)
    theirs = torch.optim.AdamW([weights[1]], lr=0.1, weight_decay=0.1)
    for step in range(4):
        for weight in weights:
            weight.grad = weight.detach() * (step + 1) + 0.3
        ours.step()
        theirs.step()
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
