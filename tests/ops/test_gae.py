"""Advantages of tokens: numbers worked by hand from the papers, a brute-force sum, and whitening over processes."""

import itertools
import random

import pytest

from posttrain.ops.gae import gae, length_adaptive_lam, returns, whitened

RANDOM = random.Random(4)


def draw(count):
    return [RANDOM.uniform(-2, 2) for _ in range(count)]


def brute_force(rewards, values, gamma, lam, end_value):
    """Eq. 14 of the GAE paper: the exponentially weighted mean of all k-step advantages, each a plain sum.

    The episode ends after T tokens, so every longer k gives the T-step advantage: its weight is what is left.
    """
    states = [*values, end_value]
    made = []
    for t in range(len(rewards)):
        left = len(rewards) - t
        steps = [
            sum(gamma**j * rewards[t + j] for j in range(k)) + gamma**k * states[t + k] - values[t]
            for k in range(1, left + 1)
        ]
        weights = [(1 - lam) * lam ** (k - 1) for k in range(1, left)]
        made.append(sum(w * s for w, s in zip([*weights, 1 - sum(weights)], steps)))
    return made


@pytest.mark.parametrize("length", [1, 2, 5, 13])
@pytest.mark.parametrize(("gamma", "lam"), [*itertools.product([1.0, 0.9], [0.0, 0.5, 0.95, 1.0])])
@pytest.mark.parametrize("end_value", [0.0, -0.7])
def test_it_is_the_weighted_mean_of_all_step_lengths(length, gamma, lam, end_value):
    rewards, values = draw(length), draw(length)
    made = gae(rewards, values, gamma=gamma, lam=lam, end_value=end_value)
    assert made == pytest.approx(brute_force(rewards, values, gamma, lam, end_value), abs=1e-12)


def test_numbers_by_hand():
    """gamma 1/2, lam 1/2: d = (0 + .5 - 0, 0 + 2 - 1, 3 - 4) = (.5, 1, -1); A = (.5 + 3/16, 1 - 1/4, -1)."""
    made = gae([0.0, 0.0, 3.0], [0.0, 1.0, 4.0], gamma=0.5, lam=0.5)
    assert made == [0.6875, 0.75, -1.0]
    assert returns(made, [0.0, 1.0, 4.0]) == [0.6875, 1.75, 3.0]


def test_lam_1_is_equation_10_of_the_ppo_paper():
    """A_1 = -V(s_1) + r_1 + gamma r_2 + gamma^2 V(s_3), bootstrapped where the completion was cut off."""
    made = gae([1.0, 2.0], [0.5, 0.25], gamma=0.9, lam=1.0, end_value=10.0)
    assert made[0] == pytest.approx(-0.5 + 1.0 + 0.9 * 2.0 + 0.81 * 10.0)
    assert made[1] == pytest.approx(-0.25 + 2.0 + 0.9 * 10.0)


def test_lam_0_is_the_temporal_difference():
    """Equation 17 of the GAE paper."""
    assert gae([1.0, 2.0], [0.5, 0.25], gamma=0.9, lam=0.0) == pytest.approx([1.0 + 0.9 * 0.25 - 0.5, 2.0 - 0.25])


def test_a_perfect_value_model_leaves_no_advantage():
    rewards = [0.5, -1.0, 2.0]
    assert gae(rewards, [1.5, 1.0, 2.0], lam=0.7) == [0.0, 0.0, 0.0]


def test_an_end_is_not_a_cut():
    """Pitfall 29: a bootstrapped end value counts, the value after a real end does not."""
    ended, cut = gae([0.0, 1.0], [0.2, 0.4]), gae([0.0, 1.0], [0.2, 0.4], end_value=0.4)
    assert cut[1] - ended[1] == pytest.approx(0.4)
    assert cut[0] - ended[0] == pytest.approx(0.95 * 0.4)


def test_the_length_adaptive_lam():
    """alpha .05 and 400 tokens: 1 - 1/20; its weights sum to alpha l = 20; a short completion has 0, never less."""
    assert length_adaptive_lam(400, 0.05) == pytest.approx(0.95)
    lam = length_adaptive_lam(4000, 0.05)
    assert sum(lam**k for k in range(4000)) == pytest.approx(200, rel=1e-4)
    assert length_adaptive_lam(20, 0.05) == 0.0
    assert length_adaptive_lam(3, 0.05) == 0.0


def test_whitening_by_hand():
    """Of 1, 2, 3 | 6: mean 3, unbiased variance (4 + 1 + 0 + 9) / 3."""
    rows = [[1.0, 2.0, 3.0], [6.0]]
    deviation = (14 / 3) ** 0.5
    flat = [value for row in whitened(rows) for value in row]
    assert flat == pytest.approx([-2 / deviation, -1 / deviation, 0, 3 / deviation])
    kept = [value for row in whitened(rows, shift=False) for value in row]
    assert kept == pytest.approx([value + 3 for value in flat])


def test_statistics_are_those_of_all_processes():
    """Pitfall 12. Each half is whitened with the other's numbers beside its own."""
    rows = [draw(n) for n in (3, 1, 5, 2)]
    whole = whitened(rows)
    halves = [rows[:1], rows[1:]]
    flat = [value for row in rows for value in row]
    mean = sum(flat) / len(flat)

    def told(mine_first):
        def gather(mine):
            other = halves[1] if mine_first else halves[0]
            theirs = [value for row in other for value in row]
            if len(mine) == 2:
                return [mine, [float(len(theirs)), sum(theirs)]]
            return [mine, [sum((value - mean) ** 2 for value in theirs)]]

        return gather

    apart = whitened(halves[0], gather=told(True)) + whitened(halves[1], gather=told(False))
    assert [v for row in apart for v in row] == pytest.approx([v for row in whole for v in row])
    alone = [v for row in whitened(halves[0]) for v in row]
    assert alone != pytest.approx([v for row in whole[:1] for v in row], abs=0.05)  # the deliberate break


def test_degenerate_batches_are_finite():
    assert whitened([[3.0]]) == [[0.0]]
    assert whitened([[3.0]], shift=False) == [[3.0]]
    assert whitened([[2.0, 2.0]]) == [[0.0, 0.0]]
    assert whitened([[], []]) == [[], []]
