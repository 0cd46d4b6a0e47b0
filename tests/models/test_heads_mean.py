"""The mean log-probability of the vocabulary, which label smoothing asks of the head."""

import math

import pytest
import torch
from test_heads import WAYS, case, plain  # type: ignore[import-not-found]
from tiny import build_model

from posttrain.models.heads import chosen_logprobs
from posttrain.models.learner import Learner
from posttrain.types import Segment, TokenForest


@pytest.mark.parametrize("entropy_grad", [False, True], ids=["alone", "with entropy"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
@WAYS
def test_each_way_gives_the_mean_logprob_and_its_gradient(frozen, keep_bytes, bias, temperature, entropy_grad):
    hidden, weight, shift, targets, upstream = case(frozen=frozen, bias=bias)
    other = upstream.flip(0)
    logits = (hidden @ weight.T + (0 if shift is None else shift)) / temperature
    table = logits.log_softmax(dim=1)
    mean = table.mean(dim=1)
    leaves = [t for t in (hidden, weight, shift) if t is not None and t.requires_grad]
    expected, _, nats = plain(hidden, weight, shift, targets, temperature)
    loss = (0.9 * expected * upstream + 0.1 * mean * other + (nats * other if entropy_grad else 0)).sum()
    wanted = torch.autograd.grad(loss, leaves)
    chosen = chosen_logprobs(
        hidden, weight, targets, bias=shift, temperature=temperature, mean_logprobs=True, entropy_grad=entropy_grad,
        keep_bytes=keep_bytes, tile_bytes=16 * 1024,
    )  # fmt: skip
    torch.testing.assert_close(chosen.mean_logprobs, mean, rtol=1e-5, atol=1e-5)
    loss = 0.9 * chosen.logprobs * upstream + 0.1 * chosen.mean_logprobs * other
    got = torch.autograd.grad((loss + (chosen.entropy * other if entropy_grad else 0)).sum(), leaves)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@WAYS
def test_three_tokens_worked_by_hand(frozen, keep_bytes):
    """Logits 0, ln 2, ln 5 give 1/8, 2/8, 5/8: the mean is (ln 10 - 3 ln 8) / 3, its gradient 1/3 - p."""
    hidden = torch.tensor([[1.0]]).requires_grad_()
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]]).requires_grad_(not frozen)
    chosen = chosen_logprobs(hidden, weight, torch.tensor([1]), mean_logprobs=True, keep_bytes=keep_bytes)
    chosen.mean_logprobs.sum().backward()
    assert chosen.mean_logprobs.item() == pytest.approx((math.log(10) - 3 * math.log(8)) / 3)
    by_hand = (1 / 3 - 2 / 8) * math.log(2) + (1 / 3 - 5 / 8) * math.log(5)
    assert hidden.grad.item() == pytest.approx(by_hand)
    if not frozen:
        torch.testing.assert_close(weight.grad[:, 0], torch.tensor([1 / 3 - 1 / 8, 1 / 3 - 2 / 8, 1 / 3 - 5 / 8]))


def test_a_model_s_own_head_gives_the_same():
    forest = TokenForest.from_trees([Segment(tokens=[5, 6, 7, 8], trained=[(1, 4)])])
    learner = Learner(build_model("qwen3"))
    fused = learner(forest, ("logprobs", "mean_logprobs"))
    learner.fused_head = False
    own = learner(forest, ("logprobs", "mean_logprobs"))
    torch.testing.assert_close(own.mean_logprobs, fused.mean_logprobs, rtol=1e-5, atol=1e-5)
    assert learner(forest).mean_logprobs is None


@pytest.mark.parametrize("keep_bytes", [2**30, 0])
def test_under_autocast_only_the_product_is_rounded(keep_bytes):
    hidden, weight, _, targets, upstream = case(frozen=False, bias=False)
    logits = hidden.bfloat16() @ weight.bfloat16().T
    expected = logits.float().log_softmax(dim=1).mean(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = chosen_logprobs(
            hidden, weight, targets, mean_logprobs=True, keep_bytes=keep_bytes, tile_bytes=16 * 1024
        ).mean_logprobs
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.01
    wanted, got = (torch.autograd.grad((mean * upstream).sum(), weight)[0] for mean in (expected, found))
    assert (wanted - got).norm() < 0.02 * wanted.norm()
