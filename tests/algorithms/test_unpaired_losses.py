"""KTO and BCO against numbers worked by hand, the signs of their gradients, additivity, and what is degenerate."""

import math
from dataclasses import replace

import pytest
import torch

from posttrain.algorithms.unpaired import UNPAIRED_LOSSES, UnpairedLoss, unpaired_batch
from posttrain.config.unpaired import KTOConfig
from posttrain.types import Outputs, Segment


def answer(reference, *, good):
    """A prompt of two tokens and an answer of as many as there are log-probabilities of the reference."""
    columns = {"ref_logprobs": reference, "desirable": [float(good)] * len(reference)}
    return Segment(tokens=[1, 2, *[5] * len(reference)], trained=[(2, 2 + len(reference))], columns=columns)


def outputs(values):
    return Outputs(logprobs=values, correct=torch.ones(len(values), dtype=torch.bool))


def with_baseline(batch, baseline):
    good = batch.desirable
    shares = torch.where(good, 1 / good.sum(), 1 / (~good).sum())
    return replace(batch, baseline=torch.full((len(good),), baseline), shares=shares)


# h(good) = (-1 - 2) - (-1.5 - 2.5) = 1; h(bad) = -2 - (-1.5) = -0.5. With beta 0.5 the rewards are 0.5 and -0.25.
BATCH = unpaired_batch([answer([-1.5, -2.5], good=True), answer([-1.5], good=False)])
LOGPROBS = torch.tensor([-1.0, -2.0, -2.0])


@pytest.mark.parametrize(
    ("settings", "baseline", "expected"),
    [
        # z0 = 0.4: 1 - s(0.5 (1 - 0.4)) = s(-0.3) = 0.42555748; 1 - s(0.5 (0.4 + 0.5)) = s(-0.45) = 0.38936077
        ({"loss_type": "kto"}, 0.2, 0.42555748 + 0.38936077),
        ({"loss_type": "kto", "desirable_weight": 3.0, "undesirable_weight": 0.5}, 0.2, 1.27667244 + 0.19468038),
        # s(-0.5) = 0.37754067; s(-0.25) = 0.43782350
        ({"loss_type": "apo_zero_unpaired"}, 0.0, 0.37754067 + 0.43782350),
        # delta = 0.1: log(1 + exp(-0.4)) = 0.51301525; log(1 + exp(-0.35)) = 0.53338218
        ({"loss_type": "bco"}, 0.1, 0.51301525 + 0.53338218),
    ],
    ids=["kto", "weighted", "apo_zero_unpaired", "bco"],
)  # fmt: skip
def test_two_answers_worked_by_hand(settings, baseline, expected):
    loss = UnpairedLoss(beta=0.5, **settings)(with_baseline(BATCH, baseline), outputs(LOGPROBS))
    assert loss.terms["unpaired"].item() == pytest.approx(expected, abs=1e-6)


def test_metrics_worked_by_hand():
    # a second good answer with h = -0.5, reward -0.25: the good ones have a mean reward of 0.125
    batch = unpaired_batch([answer([-1.5, -2.5], good=True), answer([-1.5], good=False), answer([-2.0], good=True)])
    seen = outputs(torch.tensor([-1.0, -2.0, -2.0, -2.5]))
    metrics = UnpairedLoss(beta=0.5)(with_baseline(batch, 0.2), seen).metrics
    means = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    assert means == pytest.approx(
        {
            "rewards/chosen": 0.125, "rewards/rejected": -0.25, "rewards/margins": 0.375, "logps/chosen": -2.75,
            "logps/rejected": -2.0, "kl": 0.4, "mean_token_accuracy": 1.0,
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", UNPAIRED_LOSSES)
def test_the_gradient_raises_good_answers_and_lowers_bad_ones(name):
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = UnpairedLoss(loss_type=name, beta=0.5)(with_baseline(BATCH, 0.3), outputs(logprobs))
    (grad,) = torch.autograd.grad(loss.terms["unpaired"], logprobs)
    assert grad[0] == grad[1] < 0
    assert grad[2] > 0


def test_a_kto_gradient_worked_by_hand():
    # d/dh of s(-beta (h - z0)) is -beta s(m) s(-m): with m = 0.3, -0.5 * 0.57444252 * 0.42555748
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = UnpairedLoss(beta=0.5)(with_baseline(BATCH, 0.2), outputs(logprobs))
    (grad,) = torch.autograd.grad(loss.terms["unpaired"], logprobs)
    assert grad[0].item() == pytest.approx(-0.12222916, abs=1e-7)


@pytest.mark.parametrize(("name", "expected"), [("kto", 0.5), ("apo_zero_unpaired", 0.5), ("bco", math.log(2))])
def test_a_policy_equal_to_its_reference(name, expected):
    loss = UnpairedLoss(loss_type=name)(BATCH, outputs(BATCH.ref_logprobs))
    assert loss.terms["unpaired"].item() == pytest.approx(2 * expected)
    assert float(loss.metrics["rewards/margins"][0]) == 0.0


@pytest.mark.parametrize("name", UNPAIRED_LOSSES)
@pytest.mark.parametrize("max_tokens", [1, 9, 14, 1000])
def test_the_parts_add_up_under_every_cut(name, max_tokens):
    trees = [answer([-1.0 - i % 3] * (1 + i % 4), good=i % 3 > 0) for i in range(7)]
    batch = with_baseline(unpaired_batch(trees), 0.25)
    logprobs = -torch.rand(len(batch.forest.targets), generator=torch.Generator().manual_seed(1)) * 4
    loss = UnpairedLoss(loss_type=name, beta=0.3, desirable_weight=1.3, undesirable_weight=0.7)
    whole = loss(batch, outputs(logprobs))
    parts = batch.cut(max_tokens)
    assert len(parts) == {1: 7, 9: 4, 14: 3, 1000: 1}[max_tokens]
    place, found = 0, []
    for part in parts:
        count = len(part.forest.targets)
        found.append(loss(part, outputs(logprobs[place : place + count])))
        place += count
    torch.testing.assert_close(sum(f.terms["unpaired"] for f in found), whole.terms["unpaired"])
    for metric, (total, count) in whole.metrics.items():
        for expected, parted in zip((total, count), zip(*(f.metrics[metric] for f in found))):
            assert float(sum(parted)) == pytest.approx(float(expected), abs=1e-5), metric


def test_a_step_of_one_kind_has_no_margin():
    batch = unpaired_batch([answer([-1.0], good=True)])
    metrics = UnpairedLoss()(batch, outputs(torch.tensor([-0.5]))).metrics
    assert float(metrics["rewards/margins"][1]) == 0.0
    assert float(metrics["rewards/rejected"][1]) == 0.0


def test_nothing_costs_nothing():
    loss = UnpairedLoss()(BATCH.nothing(), outputs(torch.zeros(0, requires_grad=True)))
    assert loss.terms["unpaired"].item() == 0.0
    loss.terms["unpaired"].backward()


@pytest.mark.parametrize("name", UNPAIRED_LOSSES)
def test_far_away_everything_stays_finite(name):
    logprobs = torch.tensor([-1e4, 0.0, -1e4]).requires_grad_()
    loss = UnpairedLoss(loss_type=name, beta=1.0)(BATCH, outputs(logprobs))
    (grad,) = torch.autograd.grad(loss.terms["unpaired"], logprobs)
    assert torch.isfinite(grad).all()


def test_a_baseline_with_the_wrong_sign_would_be_seen():
    """The deliberate break: z0 moves both kinds' losses, in opposite directions."""
    both = [UnpairedLoss(beta=0.5)(with_baseline(BATCH, z), outputs(LOGPROBS)) for z in (0.0, 0.2)]
    good = [float(torch.sigmoid(torch.tensor(z - 0.5))) for z in (0.0, 0.2)]
    bad = [float(torch.sigmoid(torch.tensor(-0.25 - z))) for z in (0.0, 0.2)]
    assert [float(loss.terms["unpaired"]) for loss in both] == pytest.approx([g + b for g, b in zip(good, bad)])
    assert good[1] > good[0]
    assert bad[1] < bad[0]


def test_trees_of_pairs_are_refused():
    pair = Segment(tokens=[1], children=[Segment(tokens=[2], trained=[(0, 1)])])
    with pytest.raises(ValueError, match="one segment"):
        unpaired_batch([pair])


def test_the_losses_of_the_configuration_are_those_there_are():
    assert {*KTOConfig.model_fields["loss_type"].annotation.__args__, "bco"} == set(UNPAIRED_LOSSES)
