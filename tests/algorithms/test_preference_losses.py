"""Losses of pairs against numbers worked by hand from their papers, the additivity law, and the degenerate cases."""

import math

import pytest
import torch

from posttrain.algorithms.dpo import DPOLoss, dpo_batch
from posttrain.algorithms.preference_losses import DIVERGENCES, PREFERENCE_LOSSES
from posttrain.types import Outputs, Segment


def pair(chosen_ref, rejected_ref, *, known=True):
    """A prompt of two tokens with answers of as many tokens as there are reference log-probabilities."""
    leaves = [
        Segment(tokens=[5] * len(ref), trained=[(0, len(ref))], columns={"ref_logprobs": ref} if known else {})
        for ref in (chosen_ref, rejected_ref)
    ]
    return Segment(tokens=[1, 2], children=leaves)


# h(c) = (-1 - 2) - (-1.5 - 2.5) = 1, mean 0.5; h(r) = -2 + 1.5 = -0.5, mean -0.5; d = 1.5, d' = 1
BATCH = dpo_batch([pair([-1.5, -2.5], [-1.5])])
# without a reference: -3, mean -1.5, and -2, mean -2; d = -1, d' = 0.5
ALONE = dpo_batch([pair([0, 0], [0], known=False)])
LOGPROBS = torch.tensor([-1.0, -2.0, -2.0])
COLLISION = torch.tensor([-0.5, -1.0, -1.5])
SETTINGS = {"exo_pair": {"label_smoothing": 0.1}, "robust": {"label_smoothing": 0.1}}
WITHOUT_REFERENCE = ("cpo", "simpo", "orpo")


def outputs(values, collision=None):
    return Outputs(logprobs=values, correct=torch.ones(len(values), dtype=torch.bool), log_collision=collision)


def value(batch, name, settings):
    loss = DPOLoss(loss_weights=((name, 1.0),), **settings)(batch, outputs(LOGPROBS, COLLISION))
    return sum(loss.terms.values()).item()


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("sigmoid_norm", {}, 0.5981388693815918),  # log(1 + exp(-0.2))
        # s = 0.57444, 0.57444 (log 0.57444 - log 0.9) + 0.42556 (log 0.42556 - log 0.1)
        ("exo_pair", {"label_smoothing": 0.1}, 0.3583833873635646),
        ("nca_pair", {}, 1.319406634109173),  # 0.598139 + (0.798139 + 0.644397) / 2
        ("bco_pair", {}, 1.2425355294551625),  # log(1 + exp(-0.2)) + log(1 + exp(-0.1))
        ("sppo_hard", {}, 6.25),  # (1 - 2.5)^2 + (-0.5 + 2.5)^2
        ("apo_zero", {}, 0.925186815208582),  # 1 - 0.549834 + 0.475021
        ("apo_down", {}, 0.9753914805008189),  # 0.549834 + 1 - 0.574443
        ("discopop", {"discopop_tau": 0.5}, 0.6747462409382042),  # m = s(0.6): 0.35434 * 0.55436 + 0.64566 exp(-0.3)
        # f-divergences in the sigmoid loss: -log s(0.2 (f'(e) - f'(e^-0.5)))
        ("sigmoid", {"f_divergence_type": "forward_kl"}, 0.5732434456754528),  # 0.632121 + 0.648721
        ("sigmoid", {"f_divergence_type": "js_divergence"}, 0.629247447967589),  # 0.379885 + 0.280930
        ("sigmoid", {"f_divergence_type": "alpha_divergence"}, 0.5668002581538429),  # 0.786939 + 0.568051
        ("sigmoid", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}, 0.5543552444685272),
        ("sigmoid", {"ld_alpha": 0.5}, 0.5759394198788436),  # h(c) = 0.5 + 0.5 * 0.5, d = 1.25
        ("sigmoid", {"ld_alpha": 0.0}, 0.5981388693815918),  # h(c) = 0.5, d = 1
        ("sigmoid", {"ld_alpha": 1.0}, 0.5543552444685272),
        # the policy's tokens against those it would draw: exp(-0.75) exp(-0.5), times the sigmoid loss
        ("sigmoid", {"use_weighting": True}, 0.15882543670483637),
    ],
)
def test_a_pair_worked_by_hand(name, settings, expected):
    assert value(BATCH, name, {"beta": 0.2, **settings}) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("cpo", {"beta": 0.2}, 0.7981388693815918),  # log(1 + exp(0.2))
        ("cpo", {"beta": 0.2, "label_smoothing": 0.1}, 0.7781388693815918),  # 0.9 * 0.798139 + 0.1 * 0.598139
        ("simpo", {"beta": 2.0}, 0.4740769841801067),  # log(1 + exp(-(2 * 0.5 - 0.5)))
        ("simpo", {"beta": 2.0, "simpo_gamma": 1.0}, math.log(2)),
        # rewards 4 (1 - e^0.375) = -1.819966 and 4 (1 - e^0.5) = -2.594885
        ("simpo", {"beta": 2.0, "reward_alpha": 0.25}, 0.3001002565847075),
        ("orpo", {"beta": 0.1}, 0.04349888068705395),  # log-odds -1.247516 and -1.854587, -0.1 log s(0.607070)
    ],
)
def test_a_pair_without_a_reference_worked_by_hand(name, settings, expected):
    assert value(ALONE, name, settings) == pytest.approx(expected, abs=1e-6)


def test_the_longer_answer_is_the_one_that_counts_less_whichever_it_is():
    swapped = dpo_batch([pair([-1.5], [-1.5, -2.5])])
    loss = DPOLoss(beta=0.2, ld_alpha=0.0)(swapped, outputs(torch.tensor([-2.0, -1.0, -2.0])))
    assert loss.terms["dpo"].item() == pytest.approx(math.log1p(math.exp(0.2)))  # h = -0.5 and 0.5
    assert float(loss.metrics["rewards/rejected"][0]) == pytest.approx(0.1)


def test_mean_rewards_are_of_means():
    loss = DPOLoss(beta=2.0, loss_weights=(("simpo", 1.0),), mean_rewards=True)(ALONE, outputs(LOGPROBS))
    assert float(loss.metrics["rewards/margins"][0]) == pytest.approx(1.0)
    assert float(loss.metrics["logps/chosen"][0]) == -3.0


def gradient(batch, name, settings, logprobs=LOGPROBS):
    leaf = logprobs.clone().requires_grad_()
    loss = DPOLoss(loss_weights=((name, 1.0),), **settings)(batch, outputs(leaf, torch.zeros(len(leaf))))
    return torch.autograd.grad(loss.terms["dpo"], leaf)[0]


@pytest.mark.parametrize("name", [name for name in PREFERENCE_LOSSES if name != "apo_down"])
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_answer(name):
    batch = ALONE if name in WITHOUT_REFERENCE else BATCH
    grad = gradient(batch, name, {"beta": 0.2, "discopop_tau": 0.5, **SETTINGS.get(name, {})})
    assert (grad[:2] < 0).all()
    assert grad[2] > 0


def test_apo_down_lowers_both_answers_and_the_rejected_more():
    near = torch.tensor([-1.5, -2.5, -1.5])  # the policy is the reference: s' = 1/4 everywhere
    grad = gradient(BATCH, "apo_down", {"beta": 0.2}, near)
    torch.testing.assert_close(grad, torch.tensor([0.0, 0.0, 0.05]))
    far = gradient(BATCH, "apo_down", {"beta": 2.0})
    assert far[0] > 0
    assert far[2] > 0


@pytest.mark.parametrize("tau", [0.05, 0.2])
def test_discopop_begins_uphill_where_tau_is_small(tau):
    grad = gradient(BATCH, "discopop", {"beta": 1.0, "discopop_tau": tau}, torch.tensor([-1.5, -2.5, -1.5]))
    slope = 0.25 * (1 - math.log(2)) / tau - 0.75  # of (1 - m) log(1 + exp(-x)) + m exp(-x) at x = 0
    torch.testing.assert_close(grad, torch.tensor([slope, slope, -slope]))
    assert (slope > 0) == (tau == 0.05)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_divergence_has_slope_one_at_the_reference(divergence):
    # f'(u) with f''(1) = 1, save the halved one of Jensen and Shannon
    grad = gradient(BATCH, "sigmoid", {"beta": 0.2, "f_divergence_type": divergence}, torch.tensor([-1.5, -2.5, -1.5]))
    slope = 0.05 if divergence == "js_divergence" else 0.1
    torch.testing.assert_close(grad, torch.tensor([-slope, -slope, slope]))


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradients_stay_finite_far_from_the_reference(name):
    for shift in (-400.0, 400.0):
        logprobs = LOGPROBS + torch.tensor([shift, 0.0, -shift])
        if name in WITHOUT_REFERENCE:
            logprobs = logprobs.clamp(max=0.0)  # an answer that is certain, and one that is impossible
        grad = gradient(
            ALONE if name in WITHOUT_REFERENCE else BATCH, name, {"beta": 2.0, **SETTINGS.get(name, {})}, logprobs
        )
        assert grad.isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergences_stay_finite_far_from_the_reference(divergence):
    for shift in (-400.0, 400.0):
        logprobs = LOGPROBS + torch.tensor([shift, 0.0, -shift])
        assert gradient(BATCH, "sigmoid", {"f_divergence_type": divergence}, logprobs).isfinite().all()


def test_weights_of_wpo_have_no_gradient():
    weighted = gradient(BATCH, "sigmoid", {"beta": 0.2, "use_weighting": True})
    plain = gradient(BATCH, "sigmoid", {"beta": 0.2})
    torch.testing.assert_close(weighted, plain * math.exp(-1.5 - 2.0))  # mean log-probabilities -1.5 and -2


def trees(known):
    return [pair([-1.0] * (1 + i % 4), [-2.0] * (1 + (2 * i) % 5), known=known) for i in range(7)]


@pytest.mark.parametrize("max_tokens", [1, 9, 17, 22])
@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("sigmoid_norm", "exo_pair", "nca_pair", "bco_pair", "sppo_hard"), {"label_smoothing": 0.1}),
        (("apo_zero", "apo_down", "discopop", "sft"), {"ld_alpha": 0.3}),
        (("sigmoid", "ipo", "sft"), {"use_weighting": True, "f_divergence_type": "forward_kl"}),
        (("hinge", "sigmoid"), {"f_divergence_type": "js_divergence", "ld_alpha": 0.0}),
        (("cpo", "simpo", "orpo", "sft"), {"label_smoothing": 0.1, "mean_rewards": True}),
    ],
)
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_parts(names, settings, max_tokens):
    batch = dpo_batch(trees(known="cpo" not in names))
    loss = DPOLoss(beta=0.3, loss_weights=tuple((name, 0.5 + i) for i, name in enumerate(names)), **settings)
    generator = torch.Generator().manual_seed(1)
    values = -torch.rand(2, len(batch.forest.targets), generator=generator, dtype=torch.float64) * 3
    whole = loss(batch, outputs(*values))
    parts = batch.cut(max_tokens)
    assert len(parts) > 1
    chunks = values.split([len(part.forest.targets) for part in parts], dim=1)
    pieces = [loss(part, outputs(*chunk)) for part, chunk in zip(parts, chunks)]
    for term, total in whole.terms.items():
        torch.testing.assert_close(sum(piece.terms[term] for piece in pieces), total)
    for name, (total, count) in whole.metrics.items():
        torch.testing.assert_close(float(sum(p.metrics[name][0] for p in pieces)), float(total))
        assert sum(p.metrics[name][1] for p in pieces) == count


@pytest.mark.parametrize("batch", [BATCH, ALONE])
def test_a_part_without_pairs_has_a_loss_of_zero(batch):
    none = torch.zeros(0)
    loss = DPOLoss(loss_weights=(("sigmoid", 1.0), ("simpo", 1.0)), ld_alpha=0.5, use_weighting=True)
    assert loss(batch.nothing(), outputs(none, none)).terms["dpo"].item() == 0.0


def test_a_reference_on_some_answers_only_is_an_error():
    with pytest.raises(ValueError, match="some answers"):
        dpo_batch([pair([-1.0], [-1.0]), pair([-1.0], [-1.0], known=False)])
