"""Losses against numbers worked by hand from their papers, the additivity law, and the degenerate case."""

import math

import pytest
import torch

from posttrain.algorithms.dpo import DPOLoss, dpo_batch
from posttrain.algorithms.sft import sft_batch, sft_loss
from posttrain.types import Outputs, Segment


def pair(chosen_ref, rejected_ref):
    """A prompt of two tokens with answers of as many tokens as there are reference log-probabilities."""
    leaves = [
        Segment(tokens=[5] * len(ref), trained=[(0, len(ref))], columns={"ref_logprobs": ref})
        for ref in (chosen_ref, rejected_ref)
    ]
    return Segment(tokens=[1, 2], children=leaves)


# h(chosen) = (-1.0 - 2.0) - (-1.5 - 2.5) = 1.0, mean 0.5; h(rejected) = -2.0 - (-1.5) = -0.5, mean -0.5; d = 1.5
BATCH = dpo_batch([pair([-1.5, -2.5], [-1.5])])
LOGPROBS = torch.tensor([-1.0, -2.0, -2.0])


def outputs(values):
    return Outputs(logprobs=values, correct=torch.ones(len(values), dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "beta", "smoothing", "expected"),
    [
        ("sigmoid", 0.2, 0.0, 0.5543552444685272),  # log(1 + exp(-0.3))
        ("hinge", 0.2, 0.0, 0.7),  # 1 - 0.2 * 1.5
        ("hinge", 2.0, 0.0, 0.0),  # beyond the margin
        ("robust", 0.2, 0.1, 0.5168552444685272),  # (0.9 * 0.55435524 - 0.1 * 0.85435524) / 0.8
        ("ipo", 0.25, 0.0, 1.0),  # (0.5 - (-0.5) - 2)^2
        ("sft", 0.1, 0.0, 3.0),  # 1 + 2, a sum: the engine divides it by the two chosen tokens
    ],
)
def test_a_pair_worked_by_hand(name, beta, smoothing, expected):
    loss = DPOLoss(beta=beta, loss_weights=((name, 1.0),), label_smoothing=smoothing)(BATCH, outputs(LOGPROBS))
    assert sum(loss.terms.values()).item() == pytest.approx(expected, abs=1e-6)


def test_metrics_worked_by_hand():
    metrics = DPOLoss(beta=0.2)(BATCH, outputs(LOGPROBS)).metrics
    means = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    assert means == pytest.approx(
        {
            "rewards/chosen": 0.2, "rewards/rejected": -0.1, "rewards/accuracies": 1.0, "rewards/margins": 0.3,
            "logps/chosen": -3.0, "logps/rejected": -2.0, "mean_token_accuracy": 1.0,
        }
    )  # fmt: skip


def test_weights_of_several_losses_add_up():
    loss = DPOLoss(beta=0.2, loss_weights=(("sigmoid", 2.0), ("hinge", 0.5), ("sft", 0.1)))(BATCH, outputs(LOGPROBS))
    assert loss.terms["dpo"].item() == pytest.approx(2 * 0.5543552444685272 + 0.5 * 0.7)
    assert loss.terms["sft"].item() == pytest.approx(0.3)


def test_a_policy_equal_to_its_reference_has_margin_zero_and_loss_ln_2():
    loss = DPOLoss(beta=0.5)(BATCH, outputs(BATCH.ref_logprobs))
    assert loss.terms["dpo"].item() == pytest.approx(math.log(2))
    assert float(loss.metrics["rewards/margins"][0]) == 0.0


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "robust", "ipo"])
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_answer(name):
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = DPOLoss(beta=0.2, loss_weights=((name, 1.0),))(BATCH, outputs(logprobs))
    (grad,) = torch.autograd.grad(loss.terms["dpo"], logprobs)
    assert grad[0] < 0
    assert grad[1] < 0
    assert grad[2] > 0


def test_sigmoid_gradient_worked_by_hand():
    logprobs = LOGPROBS.clone().requires_grad_()
    (grad,) = torch.autograd.grad(DPOLoss(beta=0.2)(BATCH, outputs(logprobs)).terms["dpo"], logprobs)
    weight = 0.2 / (1 + math.exp(0.3))  # beta s(-beta d), arXiv:2305.18290 section 4
    torch.testing.assert_close(grad, torch.tensor([-weight, -weight, weight]))


def test_gradients_stay_finite_far_from_the_reference():
    for shift in (-100.0, 100.0):
        logprobs = (LOGPROBS + torch.tensor([shift, 0.0, -shift])).requires_grad_()
        loss = DPOLoss(beta=5.0, loss_weights=(("sigmoid", 1.0), ("robust", 1.0)), label_smoothing=0.1)
        (grad,) = torch.autograd.grad(loss(BATCH, outputs(logprobs)).terms["dpo"], logprobs)
        assert grad.isfinite().all()


def test_sft_sums_the_negative_log_likelihood_of_trained_tokens_only():
    batch = sft_batch([Segment(tokens=[1, 2, 3, 4], trained=[(2, 4)]), Segment(tokens=[1, 2], trained=[(1, 2)])])
    loss = sft_loss(batch, outputs(torch.tensor([-1.0, -0.5, -2.0])))
    assert loss.terms["sft"].item() == 3.5
    assert batch.units == {"sft": 3.0}


TREES = [pair([-1.0] * (1 + i % 4), [-2.0] * (1 + (2 * i) % 5)) for i in range(7)]


@pytest.mark.parametrize(
    ("batch", "loss"),
    [
        (dpo_batch(TREES), DPOLoss(beta=0.3, loss_weights=(("sigmoid", 1.0), ("ipo", 0.5), ("sft", 0.2)))),
        (dpo_batch(TREES), DPOLoss(loss_weights=(("hinge", 1.0), ("robust", 1.0)), label_smoothing=0.2)),
        (sft_batch([Segment(tokens=[3] * n, trained=[(1, n)]) for n in (3, 9, 2, 5, 4)]), sft_loss),
    ],
)
@pytest.mark.parametrize("max_tokens", [1, 9, 17, 22])
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_parts(batch, loss, max_tokens):
    generator = torch.Generator().manual_seed(1)
    values = -torch.rand(len(batch.forest.targets), generator=generator, dtype=torch.float64) * 3
    whole = loss(batch, outputs(values))
    parts = batch.cut(max_tokens)
    assert len(parts) > 1
    sizes = [len(part.forest.targets) for part in parts]
    pieces = [loss(part, outputs(chunk)) for part, chunk in zip(parts, values.split(sizes))]
    for term, value in whole.terms.items():
        torch.testing.assert_close(sum(piece.terms[term] for piece in pieces), value)
    for name, (total, count) in whole.metrics.items():
        torch.testing.assert_close(float(sum(p.metrics[name][0] for p in pieces)), float(total))
        assert sum(p.metrics[name][1] for p in pieces) == count


def test_a_part_without_pairs_has_a_loss_of_zero():
    nothing = BATCH.nothing()
    loss = DPOLoss(loss_weights=(("sigmoid", 1.0), ("sft", 1.0)))(nothing, outputs(torch.zeros(0)))
    assert all(term.item() == 0.0 for term in loss.terms.values())
