"""The reward model's loss against numbers worked by hand, the additivity law, and the degenerate case."""

import math

import pytest
import torch

from posttrain.algorithms.reward import RewardLoss, reward_batch, scored
from posttrain.types import Outputs, Segment


def pair(chosen, rejected, margin=None):
    """A prompt of two tokens with answers of so many tokens."""
    leaves = [Segment(tokens=[5 + i] * count, trained=[(0, count)]) for i, count in enumerate((chosen, rejected))]
    return scored(Segment(tokens=[1, 2], children=leaves), margin)


def outputs(values):
    return Outputs(logprobs=torch.zeros(0), scores=values)


BATCH = reward_batch([pair(3, 1), pair(2, 4)])
SCORES = torch.tensor([1.0, 0.5, -1.0, 1.0])  # differences 0.5 and -2


def test_two_pairs_worked_by_hand():
    loss = RewardLoss()(BATCH, outputs(SCORES))
    # log(1 + e^-0.5) + log(1 + e^2)
    assert loss.terms["reward"].item() == pytest.approx(0.4740769841801067 + 2.1269280110429727, abs=1e-6)
    assert loss.terms.keys() == {"reward"}
    assert BATCH.units == {"reward": 2.0, "centre": 2.0}


def test_a_margin_shifts_the_difference():
    batch = reward_batch([pair(3, 1, margin=2.0), pair(2, 4, margin=-0.5)])
    loss = RewardLoss()(batch, outputs(SCORES))
    # log(1 + e^1.5) + log(1 + e^1.5)
    assert loss.terms["reward"].item() == pytest.approx(2 * 1.7014132779827524, abs=1e-6)


def test_one_margin_of_two_leaves_the_other_at_zero():
    loss = RewardLoss()(reward_batch([pair(3, 1, margin=2.0), pair(2, 4)]), outputs(SCORES))
    assert loss.terms["reward"].item() == pytest.approx(1.7014132779827524 + 2.1269280110429727, abs=1e-6)


def test_centring_adds_the_squared_sum_of_a_pair():
    loss = RewardLoss(centre=0.01)(BATCH, outputs(SCORES))
    assert loss.terms["centre"].item() == pytest.approx(0.01 * (1.5**2 + 0.0**2))


def test_metrics_worked_by_hand():
    metrics = RewardLoss()(BATCH, outputs(SCORES)).metrics
    means = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    assert means == pytest.approx(
        {"accuracy": 0.5, "margin": -0.75, "min_reward": -0.25, "mean_reward": 0.375, "max_reward": 1.0}
    )


def test_equal_scores_are_ln_2_and_no_pair_is_right():
    loss = RewardLoss()(BATCH, outputs(torch.full((4,), 3.0)))
    assert loss.terms["reward"].item() == pytest.approx(2 * math.log(2))
    assert float(loss.metrics["accuracy"][0]) == 0.0


def test_the_gradient_is_the_probability_of_being_wrong():
    scores = SCORES.clone().requires_grad_()
    (grad,) = torch.autograd.grad(RewardLoss()(BATCH, outputs(scores)).terms["reward"], scores)
    first, second = 1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-2))
    torch.testing.assert_close(grad, torch.tensor([-first, first, -second, second]))


def test_gradients_stay_finite_far_out():
    for shift in (-1e4, 1e4):
        scores = (SCORES + torch.tensor([shift, 0.0, 0.0, shift])).requires_grad_()
        (grad,) = torch.autograd.grad(RewardLoss(centre=0.01)(BATCH, outputs(scores)).terms["reward"], scores)
        assert grad.isfinite().all()


@pytest.mark.parametrize("margins", [None, 0.7])
@pytest.mark.parametrize("max_tokens", [1, 9, 17, 22])
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_parts(max_tokens, margins):
    trees = [pair(1 + i % 4, 1 + (2 * i) % 5, margins and margins * i) for i in range(7)]
    batch, loss = reward_batch(trees), RewardLoss(centre=0.1)
    scores = torch.randn(14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = loss(batch, outputs(scores))
    parts = batch.cut(max_tokens)
    assert len(parts) > 1
    pieces = [loss(p, outputs(s)) for p, s in zip(parts, scores.split([len(p.forest.leaves) for p in parts]))]
    for term, value in whole.terms.items():
        torch.testing.assert_close(sum(piece.terms[term] for piece in pieces), value)
    for name, (total, count) in whole.metrics.items():
        torch.testing.assert_close(float(sum(p.metrics[name][0] for p in pieces)), float(total))
        assert sum(p.metrics[name][1] for p in pieces) == count


def test_a_part_without_pairs_has_a_loss_of_zero():
    loss = RewardLoss(centre=1.0)(BATCH.nothing(), outputs(torch.zeros(0)))
    assert all(term.item() == 0.0 for term in loss.terms.values())


def test_a_learner_without_scores_is_a_mistake_that_is_named():
    with pytest.raises(ValueError, match="needs scores"):
        RewardLoss()(BATCH, Outputs(logprobs=torch.zeros(6)))
