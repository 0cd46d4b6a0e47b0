"""The policy's loss against numbers worked by hand, its gradient's signs, the additivity law and the extremes."""

import itertools
import math

import pytest
import torch

from posttrain.algorithms.grpo import AGGREGATIONS, PolicyLoss, policy_batch
from posttrain.ops.advantages import group_advantages
from posttrain.types import Outputs, Segment


def completion(advantage, old, *, weight=1.0, ref=None):
    """A leaf with a token for each of the old log-probabilities."""
    count = len(old)
    columns = {"advantages": [advantage] * count, "weights": [weight] * count, "old_logprobs": old}
    if ref is not None:
        columns["ref_logprobs"] = ref
    return Segment(tokens=[7] * count, trained=[(0, count)], columns=columns)


def batch_of(*leaves, unit=1.0, atom="token"):
    return policy_batch([Segment(tokens=[1, 2], children=list(leaves))], units={"policy": unit}, atom=atom)


def one_token(advantage, log_ratio, **options):
    """The loss of one token whose log-ratio is this, and the loss's slope in its log-probability."""
    loss = PolicyLoss(**options)
    batch = batch_of(completion(advantage, [-2.0]), atom=loss.importance)
    logprobs = torch.tensor([-2.0 + log_ratio]).requires_grad_()
    term = loss(batch, Outputs(logprobs=logprobs)).terms["policy"]
    return term.item(), torch.autograd.grad(term, logprobs)[0].item()


LOW, HIGH, FAR = math.log(0.5), math.log(1.5), math.log(4.0)


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize(
    ("advantage", "log_ratio", "value", "slope"),
    [
        (2.0, 0.0, -2.0, -2.0),  # on policy
        (2.0, math.log(1.1), -2.2, -2.2),  # inside: the slope is -A q
        (2.0, HIGH, -2.4, 0.0),  # far enough up: held at 1.2
        (2.0, LOW, -1.0, -1.0),  # gone down although good: free to come back
        (-2.0, math.log(0.9), 1.8, 1.8),
        (-2.0, LOW, 1.6, 0.0),  # far enough down: held at 0.8
        (-2.0, HIGH, 3.0, 3.0),  # gone up although bad: free to come back
        (0.0, HIGH, 0.0, 0.0),
        (0.0, LOW, 0.0, 0.0),
    ],
)
def test_the_table_of_clipped_gradients(importance, advantage, log_ratio, value, slope):
    """Pitfall 26: A above and below 0, the ratio inside and outside 0.8 to 1.2. For one token GSPO is the same."""
    got = one_token(advantage, log_ratio, epsilon=0.2, importance=importance)
    assert got == pytest.approx((value, slope), abs=1e-6)


def test_clip_higher_leaves_room_upwards_only():
    assert one_token(1.0, math.log(1.25), epsilon=0.2, epsilon_high=0.28) == pytest.approx((-1.25, -1.25))
    assert one_token(1.0, math.log(1.3), epsilon=0.2, epsilon_high=0.28) == pytest.approx((-1.28, 0.0))
    assert one_token(-1.0, math.log(0.75), epsilon=0.2, epsilon_high=0.28) == pytest.approx((0.8, 0.0))


def test_delta_bounds_a_bad_token_that_became_likely():
    """Only where A < 0 and q is above delta, where min() alone has no bound (arXiv:2505.07291)."""
    assert one_token(-1.0, FAR) == pytest.approx((4.0, 4.0))
    assert one_token(-1.0, FAR, delta=3.0) == pytest.approx((3.0, 0.0))
    assert one_token(-1.0, math.log(2.0), delta=3.0) == pytest.approx((2.0, 2.0))
    assert one_token(1.0, FAR, delta=3.0) == pytest.approx((-1.2, 0.0))


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "weight"), [(2.0, FAR, 3.0), (-2.0, FAR, 3.0), (2.0, LOW, 0.5), (-2.0, LOW, 0.5)]
)
def test_cispo_bounds_the_weight_and_keeps_every_gradient(advantage, log_ratio, weight):
    """Pitfall 31: the weight is detached. Were it not, the slope would have a term with the log-probability."""
    value, slope = one_token(advantage, log_ratio, loss_type="cispo", epsilon_high=3.0)
    assert value == pytest.approx(-weight * advantage * (-2.0 + log_ratio))
    assert slope == pytest.approx(-weight * advantage)


def test_a_sequence_ratio_is_the_geometric_mean_and_has_a_gradient():
    """Pitfall 31: log q = (0.3 + 0 - 0.6) / 3 = -0.1 at all three tokens, each of which moves it by a third."""
    loss = PolicyLoss(loss_type="grpo", importance="sequence")
    batch = batch_of(completion(2.0, [-1.3, -1.0, -0.4], weight=1 / 3), atom="sequence")
    logprobs = torch.full((3,), -1.0).requires_grad_()
    result = loss(batch, Outputs(logprobs=logprobs))
    ratio = math.exp(-0.1)
    assert result.terms["policy"].item() == pytest.approx(-2 * ratio)
    (slopes,) = torch.autograd.grad(result.terms["policy"], logprobs)
    torch.testing.assert_close(slopes, torch.full((3,), -2 * ratio / 3))


def test_a_sequence_is_clipped_whole():
    """Token by token 1.5 and 0.5 would be clipped on different sides; their mean is inside."""
    leaves = completion(1.0, [-1 - HIGH, -1 - LOW], weight=0.5)
    by_token, by_sequence = (
        PolicyLoss(importance=importance)(batch_of(leaves, atom=importance), Outputs(logprobs=torch.full((2,), -1.0)))
        for importance in ("token", "sequence")
    )
    assert by_token.terms["policy"].item() == pytest.approx(-(1.2 + 0.5) / 2)
    assert by_sequence.terms["policy"].item() == pytest.approx(-math.sqrt(0.75))


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", AGGREGATIONS)
def test_the_policy_that_sampled_has_a_ratio_of_exactly_one(loss_type, importance):
    """Pitfall 20: with the log-probabilities recomputed in the same pass, the plain policy gradient -w A."""
    columns = {"advantages": [1.5] * 3, "weights": [0.25] * 3}
    tree = Segment(tokens=[1], children=[Segment(tokens=[7] * 3, trained=[(0, 3)], columns=columns)])
    batch = policy_batch([tree], units={"policy": 1.0}, atom=importance)
    assert batch.old_logprobs is None
    logprobs = torch.tensor([-0.123, -4.56, -17.89]).requires_grad_()
    loss = PolicyLoss(loss_type=loss_type, importance=importance, epsilon_high=5.0 if loss_type == "cispo" else None)
    result = loss(batch, Outputs(logprobs=logprobs))
    assert float(result.metrics["importance_ratio/mean"][0]) == float(result.metrics["importance_ratio/mean"][1])
    assert float(result.metrics["importance_ratio/abs_log_mean"][0]) == 0.0
    (slopes,) = torch.autograd.grad(result.terms["policy"], logprobs)
    torch.testing.assert_close(slopes, torch.full((3,), -1.5 * 0.25), rtol=1e-6, atol=0)


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("shift", [100.0, -100.0])
@pytest.mark.parametrize("options", [{}, {"delta": 3.0}, {"loss_type": "cispo", "epsilon_high": 5.0}])
def test_gradients_are_finite_far_from_the_policy_that_sampled(options, shift, advantage, importance):
    """Pitfall 24: exp(100) is infinite in float32, and 0 times it is no number."""
    value, slope = one_token(advantage, shift, importance=importance, **options)
    assert math.isfinite(value)
    assert math.isfinite(slope)
    assert advantage or (value, slope) == (0.0, 0.0)
    everything = PolicyLoss(beta=0.1, use_bias_correction_kl=True, importance=importance, **options)
    batch = batch_of(completion(advantage, [-2.0 - shift], ref=[-2.0 + shift]), atom=importance)
    logprobs = torch.tensor([-2.0]).requires_grad_()
    everything(batch, Outputs(logprobs=logprobs)).terms["policy"].backward()
    assert logprobs.grad.isfinite().all()


@pytest.mark.parametrize("loss_type", AGGREGATIONS)
def test_a_group_with_equal_rewards_has_a_gradient_of_exactly_zero(loss_type):
    """Pitfall 27, off policy too, where the ratios are anything."""
    advantages = group_advantages([0.3, 0.3, 0.3], 3)
    batch = batch_of(*(completion(a, [-1.0, -30.0, -0.1]) for a in advantages))
    logprobs = torch.linspace(-40.0, -0.5, 9).requires_grad_()
    PolicyLoss(loss_type=loss_type)(batch, Outputs(logprobs=logprobs)).terms["policy"].backward()
    assert torch.equal(logprobs.grad, torch.zeros(9))


@pytest.mark.parametrize(
    ("loss_type", "weights", "unit", "mean"),
    [
        ("grpo", [1.0, 1 / 3, 1 / 2], 4, 7 / 4),  # 1 + 9/3 + 6/2 over four completions, the masked one among them
        ("bnpo", [1.0, 1.0, 1.0], 6, 16 / 6),
        ("dapo", [1.0, 1.0, 1.0], 8, 16 / 8),  # 24 tokens in a rollout of three steps
        ("dr_grpo", [1.0, 1.0, 1.0], 40, 16 / 40),  # four completions of at most ten tokens
        ("cispo", [1.0, 1.0, 1.0], 8, 16 / 8),
    ],
)
def test_aggregations_worked_by_hand_on_unequal_lengths(loss_type, weights, unit, mean):
    """Pitfall 11. Completions of 1, 3 and 2 tokens with a loss of 1, 3 and 3 at each of theirs; a fourth is masked."""
    aggregation, lengths = AGGREGATIONS[loss_type], [1, 3, 2, 0]
    assert [aggregation.weight(n) for n in lengths if n] == weights
    assert aggregation.unit(step=lengths, rollout=[*lengths, 18], steps=3, max_completion_length=10) == unit
    leaves = [completion(-a, [-1.0] * n, weight=w) for a, n, w in zip((1, 3, 3), lengths, weights)]
    logprobs = torch.full((6,), -1.0)
    loss = PolicyLoss(loss_type=loss_type, epsilon_high=5.0)
    assert loss(batch_of(*leaves), Outputs(logprobs=logprobs)).terms["policy"].item() / unit == pytest.approx(
        mean if loss_type != "cispo" else -mean  # minus A times the log-probability of -1
    )


def test_the_kl_is_weighted_like_the_rest_and_measured_without_beta_too():
    leaves = [completion(0.0, [-1.0], ref=[-1.5], weight=0.5), completion(0.0, [-2.0], ref=[-1.0], weight=2.0)]
    outputs = Outputs(logprobs=torch.tensor([-1.0, -2.0]))
    k3 = [math.exp(-0.5) - 0.5, math.e - 2]
    for beta in (0.0, 0.1):
        result = PolicyLoss(beta=beta)(batch_of(*leaves), outputs)
        assert result.terms["policy"].item() == pytest.approx(beta * (0.5 * k3[0] + 2 * k3[1]))
        assert float(result.metrics["kl"][0]) == pytest.approx(sum(k3))
        assert int(result.metrics["kl"][1]) == 2


def test_the_entropy_bonus_raises_the_entropy_whatever_the_weights():
    loss = PolicyLoss(entropy_weight=0.5, loss_type="grpo")
    assert loss.needs == ("entropy_grad",)
    assert PolicyLoss().needs == ()
    batch = batch_of(completion(0.0, [-1.0, -1.0], weight=0.5), completion(0.0, [-1.0], weight=1.0), unit=2.0)
    entropy = torch.tensor([1.0, 2.0, 4.0]).requires_grad_()
    result = loss(batch, Outputs(logprobs=torch.full((3,), -1.0), entropy=entropy))
    assert batch.units == {"policy": 2.0, "entropy": 3.0}
    assert result.terms["entropy"].item() == -3.5
    assert torch.autograd.grad(result.terms["entropy"], entropy)[0].tolist() == [-0.5] * 3


def test_a_masked_completion_is_in_no_term_and_no_metric():
    """Pitfall 29: its weight is 0, whatever else it carries."""
    rest = completion(1.0, [-1.0, -2.0], ref=[-1.0, -1.0])
    masked = completion(-1e6, [-50.0, -3.0, -2.0], ref=[-90.0, -3.0, -1.0], weight=0.0)
    loss = PolicyLoss(beta=0.1, entropy_weight=0.1)
    for importance in ("token", "sequence"):
        with_it, without = batch_of(rest, masked, atom=importance), batch_of(rest, atom=importance)
        logprobs = torch.tensor([-1.1, -1.7, -1.0, -2.0, -9.0]).requires_grad_()
        entropy = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        got = loss(with_it, Outputs(logprobs=logprobs, entropy=entropy))
        expected = loss(without, Outputs(logprobs=logprobs[:2], entropy=entropy[:2]))
        assert with_it.units == without.units
        assert got.terms == expected.terms
        assert got.metrics == expected.metrics
        assert torch.autograd.grad(got.terms["policy"], logprobs)[0][2:].tolist() == [0.0] * 3


@pytest.mark.parametrize(("importance", "counts"), [("token", (1, 2, 5)), ("sequence", (1, 1, 3))])
def test_clip_fractions_count_tokens_or_sequences(importance, counts):
    leaves = [
        completion(1.0, [-1 - HIGH, -1 - HIGH]),  # up, A > 0: clipped above
        completion(-1.0, [-1 - LOW]),  # down, A < 0: clipped below
        completion(1.0, [-1 - LOW, -1 - LOW]),  # down, A > 0: free
    ]
    loss = PolicyLoss(importance=importance)
    metrics = loss(batch_of(*leaves, atom=importance), Outputs(logprobs=torch.full((5,), -1.0))).metrics
    low, high, count = counts
    assert {name: tuple(map(int, pair)) for name, pair in metrics.items() if "clip" in name} == {
        "clip_ratio/low_mean": (low, count),
        "clip_ratio/high_mean": (high, count),
        "clip_ratio/region_mean": (low + high, count),
    }
    assert int(metrics["importance_ratio/beyond_2_mean"][0]) == 0
    cispo = PolicyLoss(importance=importance, loss_type="cispo", epsilon_high=1.4)
    metrics = cispo(batch_of(*leaves, atom=importance), Outputs(logprobs=torch.full((5,), -1.0))).metrics
    assert tuple(map(int, metrics["cispo_clip_ratio"])) == (high, count)


LEAVES = [
    completion((-1.0) ** i * (1 + i), [-1.0 - 0.1 * j for j in range(1 + i % 4)], ref=[-1.5] * (1 + i % 4),
               weight=i % 5 / 4)
    for i in range(11)
]  # fmt: skip


@pytest.mark.parametrize("max_tokens", [1, 9, 17, 22])
@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["dapo", "cispo"])
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_parts(loss_type, importance, max_tokens):
    """Pitfall 13: nothing of a group is computed here, so a group may be cut between its completions."""
    loss = PolicyLoss(loss_type=loss_type, importance=importance, beta=0.2, entropy_weight=0.1)
    batch = batch_of(*LEAVES, atom=importance)
    generator = torch.Generator().manual_seed(1)
    count = len(batch.forest.targets)
    logprobs, entropy = (-torch.rand(count, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    whole = loss(batch, Outputs(logprobs=logprobs, entropy=entropy))
    parts = batch.cut(max_tokens)
    assert len(parts) > 1
    sizes = [len(part.forest.targets) for part in parts]
    pieces = [
        loss(part, Outputs(logprobs=p, entropy=e))
        for part, p, e in zip(parts, logprobs.split(sizes), entropy.split(sizes))
    ]
    assert whole.terms.keys() == {"policy", "entropy"}
    for term, value in whole.terms.items():
        torch.testing.assert_close(sum(piece.terms[term] for piece in pieces), value)
    for name, (total, count) in whole.metrics.items():
        torch.testing.assert_close(float(sum(p.metrics[name][0] for p in pieces)), float(total))
        assert sum(p.metrics[name][1] for p in pieces) == count


@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_a_part_without_completions_has_a_loss_of_zero(importance):
    loss = PolicyLoss(importance=importance, beta=0.1, entropy_weight=0.1)
    nothing = batch_of(*LEAVES, atom=importance).nothing()
    result = loss(nothing, Outputs(logprobs=torch.zeros(0), entropy=torch.zeros(0)))
    assert [term.item() for term in result.terms.values()] == [0.0, 0.0]
    assert all(float(total) == float(count) == 0 for total, count in result.metrics.values())


def test_a_loss_that_lacks_what_it_needs_says_so():
    outputs = Outputs(logprobs=torch.tensor([-1.0]))
    batch = batch_of(completion(1.0, [-1.0]))
    with pytest.raises(ValueError, match="ref_logprobs"):
        PolicyLoss(beta=0.1)(batch, outputs)
    with pytest.raises(ValueError, match="entropy"):
        PolicyLoss(entropy_weight=0.1)(batch, outputs)


@pytest.mark.parametrize(("baseline", "share"), [("leave_one_out", 1.0), ("mean", 2 / 3)])
def test_the_expected_gradient_is_that_of_the_expected_reward(baseline, share):
    """Over all groups of three draws from four answers. The plain baseline shrinks it by (G - 1) / G, no more."""
    rewards, logits = [0.0, 1.0, 0.3, 2.0], torch.tensor([0.2, -0.5, 0.9, 0.1], dtype=torch.float64)
    logits.requires_grad_()
    (wanted,) = torch.autograd.grad(-(logits.softmax(0) @ torch.tensor(rewards, dtype=torch.float64)), logits)
    logprobs = logits.log_softmax(0)
    probabilities = logprobs.exp().detach()
    expected = torch.zeros((), dtype=torch.float64)
    loss = PolicyLoss(loss_type="grpo")
    for group in itertools.product(range(4), repeat=3):
        advantages = group_advantages([rewards[i] for i in group], 3, scale="none", baseline=baseline)
        batch = batch_of(*(completion(a, [float(logprobs[i].detach())]) for a, i in zip(advantages, group)))
        result = loss(batch, Outputs(logprobs=logprobs[list(group)]))
        expected = expected + probabilities[list(group)].prod() * result.terms["policy"] / 3
    (got,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(got, wanted * share, rtol=1e-5, atol=1e-7)
