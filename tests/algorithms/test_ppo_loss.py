"""PPO's losses against numbers worked by hand, their gradients' signs, the additivity law and the extremes."""

import math

import pytest
import torch

from posttrain.algorithms.ppo import PPOLoss, ppo_batch
from posttrain.types import Outputs, Segment


def completion(advantages, returns, old_values, *, old=None, weight=1.0):
    count = len(advantages)
    columns = {
        "advantages": advantages, "weights": [weight] * count, "returns": returns, "old_values": old_values,
        **({"old_logprobs": old} if old is not None else {}),
    }  # fmt: skip
    return Segment(tokens=[7] * count, trained=[(0, count)], columns=columns)


def batch_of(*leaves):
    tokens = sum(len(leaf.tokens) for leaf in leaves)
    return ppo_batch([Segment(tokens=[1, 2], children=list(leaves))], tokens=float(tokens))


def one_value(value, wanted, old_value, **options):
    """The value loss of one token, and its slope in the value."""
    values = torch.tensor([value]).requires_grad_()
    batch = batch_of(completion([0.0], [wanted], [old_value]))
    term = PPOLoss(vf_coef=1.0, **options)(batch, Outputs(logprobs=torch.tensor([-1.0]), values=values)).terms["value"]
    return term.item(), torch.autograd.grad(term, values)[0].item()


@pytest.mark.parametrize(
    ("value", "wanted", "old", "loss", "slope"),
    [
        (0.1, 1.0, 0.0, 0.405, -0.9),  # within the range: (0.1 - 1)^2 / 2
        (0.5, 1.0, 0.0, 0.32, 0.0),  # moved on beyond 0.2 towards the return: held at (0.2 - 1)^2 / 2
        (-0.5, 1.0, 0.0, 1.125, -1.5),  # moved the wrong way: (-0.5 - 1)^2 / 2 is the larger, and it may come back
        (1.5, 1.0, 0.0, 0.32, 0.0),  # beyond the return on the other side, still held at 0.2
        (2.0, 1.0, 0.0, 0.5, 1.0),  # so far beyond that it is the larger again
        (1.0, 1.0, 1.0, 0.0, 0.0),
    ],
)
def test_the_value_loss_is_the_larger_of_the_two(value, wanted, old, loss, slope):
    """Pitfall 30. With the smaller of the two every other line would differ."""
    assert one_value(value, wanted, old, cliprange_value=0.2) == pytest.approx((loss, slope), abs=1e-6)


def test_both_terms_and_their_metrics_by_hand():
    """Two tokens: ratios 1.5 (held at 1.2) and 1; advantages 2 and -1; value errors -1 and 0.5, coefficient 0.1."""
    batch = batch_of(completion([2.0, -1.0], [1.0, 0.0], [0.0, 0.5], old=[-1.0, -1.0]))
    outputs = Outputs(logprobs=torch.tensor([-1.0 + math.log(1.5), -1.0]), values=torch.tensor([0.0, 0.5]))
    loss = PPOLoss()(batch, outputs)
    assert loss.terms["policy"].item() == pytest.approx(-2.4 + 1.0)
    assert loss.terms["value"].item() == pytest.approx(0.1 * (1.0 + 0.25) / 2)
    assert batch.units == {"policy": 2.0, "value": 2.0, "entropy": 2.0}
    means = {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}
    assert means["policy/approxkl_avg"] == pytest.approx(math.log(1.5) ** 2 / 4)
    assert means["policy/clipfrac_avg"] == 0.5
    assert means["loss/policy_avg"] == pytest.approx(-0.7)
    assert means["loss/value_avg"] == pytest.approx(0.3125)
    assert means["val/ratio"] == pytest.approx(1.25)
    assert means["val/mean"] == 0.25
    assert means["val/clipfrac_avg"] == 0.0


def test_on_the_policy_that_sampled_the_ratio_is_one():
    """Pitfall 20: without old log-probabilities exactly, and the slope is minus the advantage."""
    logprobs = torch.tensor([-3.0, -0.1]).requires_grad_()
    batch = batch_of(completion([0.7, -1.1], [0.0, 0.0], [0.0, 0.0]))
    loss = PPOLoss()(batch, Outputs(logprobs=logprobs, values=torch.zeros(2)))
    assert float(loss.metrics["val/ratio"][0]) == 2.0
    (slope,) = torch.autograd.grad(loss.terms["policy"], logprobs)
    assert slope.tolist() == pytest.approx([-0.7, 1.1])


def test_a_weight_of_0_leaves_the_value_model_alone_to_learn():
    logprobs, values = torch.tensor([-1.0]).requires_grad_(), torch.tensor([0.5]).requires_grad_()
    batch = batch_of(completion([2.0], [1.0], [0.5], old=[-1.4], weight=0.0))
    loss = PPOLoss()(batch, Outputs(logprobs=logprobs, values=values))
    of_policy, of_values = torch.autograd.grad(sum(loss.terms.values()), [logprobs, values])
    assert of_policy.item() == 0.0
    assert of_values.item() == pytest.approx(-0.05)
    assert float(loss.metrics["policy/approxkl_avg"][1]) == 0.0


def draw(seed, count):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).tolist()


LEAVES = [
    completion(draw(i, n), draw(i + 9, n), draw(i + 18, n), old=draw(i + 27, n)) for i, n in enumerate((3, 1, 6, 2))
]
TREES = [Segment(tokens=[1, 2, 3], children=LEAVES[:2]), Segment(tokens=[4], children=LEAVES[2:])]


@pytest.mark.parametrize("max_tokens", [1, 7, 9])
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_parts(max_tokens):
    batch, loss = ppo_batch(TREES, tokens=12.0), PPOLoss(entropy_weight=0.3)
    logprobs, values, entropy = (torch.tensor(draw(seed, 12), dtype=torch.float64) for seed in (50, 51, 52))

    def outputs(low, high):
        return Outputs(logprobs=logprobs[low:high], values=values[low:high], entropy=entropy[low:high].abs())

    whole = loss(batch, outputs(0, 12))
    parts, place, pieces = batch.cut(max_tokens), 0, []
    assert len(parts) > 1
    for part in parts:
        pieces.append(loss(part, outputs(place, place + len(part.forest.targets))))
        place += len(part.forest.targets)
    for term, value in whole.terms.items():
        torch.testing.assert_close(sum(piece.terms[term] for piece in pieces), value)
    for name, (total, count) in whole.metrics.items():
        assert sum(float(piece.metrics[name][0]) for piece in pieces) == pytest.approx(float(total), abs=1e-9)
        assert sum(float(piece.metrics[name][1]) for piece in pieces) == float(count)


def test_a_part_without_completions_has_a_loss_of_zero():
    loss = PPOLoss()(ppo_batch(TREES, tokens=12.0).nothing(), Outputs(logprobs=torch.zeros(0), values=torch.zeros(0)))
    assert {name: term.item() for name, term in loss.terms.items()} == {"policy": 0.0, "value": 0.0}


def test_the_gradient_is_finite_far_from_the_policy_that_sampled():
    """Pitfall 24."""
    for shift in (-100.0, 100.0):
        logprobs = torch.tensor([-1.0 + shift]).requires_grad_()
        batch = batch_of(completion([-1.0], [0.0], [0.0], old=[-1.0]))
        term = PPOLoss()(batch, Outputs(logprobs=logprobs, values=torch.zeros(1))).terms["policy"]
        assert torch.autograd.grad(term, logprobs)[0].isfinite().all()


def test_values_are_asked_for():
    assert PPOLoss().needs == ("values",)
    with pytest.raises(ValueError, match="value loss without values"):
        PPOLoss()(batch_of(completion([1.0], [1.0], [1.0])), Outputs(logprobs=torch.zeros(1)))
