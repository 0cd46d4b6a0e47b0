"""The hand-written functions against numbers worked by hand and the modelling files of transformers."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as phi3_rotary

from posttrain.models.elementwise import gated, rms_norm, rotate

OWN = {"after": LlamaRMSNorm, "before": Olmo2RMSNorm, "shifted": GemmaRMSNorm}


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_a_norm_worked_by_hand():
    # rms([3, 4]) = sqrt(12.5); the gradient of the first number is (1 - 9/25, -12/25) / rms
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    y = rms_norm(x, weight, 0.0, "after")
    torch.testing.assert_close(y, torch.tensor([[0.848528, 2.262742]]))
    y[0, 0].backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.181019, -0.135765]]))
    torch.testing.assert_close(weight.grad, torch.tensor([0.848528, 0.0]))


def test_a_weight_around_one_worked_by_hand():
    x = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(
        rms_norm(x, torch.tensor([0.0, 1.0]), 0.0, "shifted"), torch.tensor([[0.848528, 2.262742]])
    )
    # eps = 3.5: x / sqrt(16)
    torch.testing.assert_close(rms_norm(x, torch.ones(2), 3.5, "before"), torch.tensor([[0.75, 1.0]]))


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("formula", OWN)
def test_the_norm_equals_the_models_own(formula, turned, dtype, weight_dtype):
    own = OWN[formula](16, eps=1e-6)
    own.weight = nn.Parameter(random(16, dtype=weight_dtype, seed=1))
    x = random(2, 5, 3, 16, dtype=dtype).requires_grad_()
    seen = x.transpose(1, 2) if turned else x
    wanted, made = own(seen), rms_norm(seen, own.weight, 1e-6, formula)
    assert made.dtype == wanted.dtype
    assert made.shape == wanted.shape
    exact = dtype == weight_dtype == torch.float32
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if exact else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(made, wanted, **tolerance)
    grad = random(*wanted.shape, dtype=wanted.dtype, seed=2)
    ours = torch.autograd.grad(made, [x, own.weight], grad)
    theirs = torch.autograd.grad(wanted, [x, own.weight], grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance["rtol"], atol=tolerance["atol"] * 5)


def test_bfloat16_rounds_where_each_model_does():
    """In pure bfloat16 the formulas differ, and each is its model's to the last bit."""
    x = random(64, 32, dtype=torch.bfloat16)
    made = {}
    for formula, build in OWN.items():
        own = build(32, eps=1e-6)
        own.weight = nn.Parameter(random(32, dtype=torch.bfloat16, seed=1))
        made[formula] = rms_norm(x, own.weight, 1e-6, formula)
        assert (made[formula] != own(x)).float().mean() < 1e-3
    assert (made["after"] != made["before"]).float().mean() > 1e-2


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_the_norm_gives_the_gradients_that_are_asked_for(needed):
    x, weight = random(3, 8).requires_grad_(needed[0]), random(8, seed=1).requires_grad_(needed[1])
    rms_norm(x, weight, 1e-6, "after").sum().backward()
    assert (x.grad is not None, weight.grad is not None) == needed


def test_a_gate_worked_by_hand():
    # silu(1) = 0.731059, its slope 0.927671
    gate, up = torch.tensor([1.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    product = gated(gate, up, "silu")
    torch.testing.assert_close(product, torch.tensor([2.193176]))
    product.backward()
    torch.testing.assert_close(gate.grad, torch.tensor([2.783012]))
    torch.testing.assert_close(up.grad, torch.tensor([0.731059]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("silu", functional.silu),
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
    ],
)
def test_the_gate_is_the_models_own_to_the_last_bit(name, own, dtype):
    both = random(7, 24, dtype=dtype).mul(3).requires_grad_()
    gate, up = both.chunk(2, dim=-1)  # as one layer for both gives them
    grad = random(7, 12, dtype=dtype, seed=1)
    made, wanted = gated(gate, up, name), own(gate) * up
    assert torch.equal(made, wanted)
    assert torch.equal(
        torch.autograd.grad(made, both, grad)[0], torch.autograd.grad(wanted, both, grad, retain_graph=True)[0]
    )


def test_positions_worked_by_hand():
    # half a turn negates; a quarter turn of (1, 2) with halves swapped: (1, 2) -> (-2, 1)
    q = torch.tensor([[[[1.0, 2.0], [1.0, 2.0]]]])
    cos, sin = torch.tensor([[[-1.0, -1.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    turned, _ = rotate(q, q, cos, sin)
    assert turned.tolist() == [[[[-1.0, -2.0], [-2.0, 1.0]]]]


@pytest.mark.parametrize(("own", "width"), [(apply_rotary_pos_emb, 8), (phi3_rotary, 8), (phi3_rotary, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_equal_the_models_own(own, width, dtype):
    q = random(1, 5, 4, 8, dtype=dtype).requires_grad_()
    k = random(1, 5, 2, 8, dtype=dtype, seed=1).requires_grad_()
    cos, sin = random(1, 5, width, dtype=dtype, seed=2), random(1, 5, width, dtype=dtype, seed=3)
    seen = q.transpose(1, 2), k.transpose(1, 2)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    made, wanted = rotate(*seen, cos, sin), own(*seen, cos, sin)
    grads = [random(*y.shape, dtype=dtype, seed=4) for y in wanted]
    ours, theirs = torch.autograd.grad(made, [q, k], grads), torch.autograd.grad(wanted, [q, k], grads)
    for a, b in zip([*made, *ours], [*wanted, *theirs], strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, **tolerance)
