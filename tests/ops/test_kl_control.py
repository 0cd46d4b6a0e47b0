"""The KL coefficient is steered as in the paper, by numbers worked by hand."""

import pytest

from posttrain.ops.kl_control import next_kl_coef


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (6.0, 0.2),  # on target
        (6.6, 0.202),  # 10% over: 0.2 (1 + 0.1 x 0.1)
        (60.0, 0.204),  # far over, which counts as 20%
        (0.0, 0.196),  # far under
        (-3.0, 0.196),  # an estimate may be negative
    ],
)
def test_it_grows_with_the_error_which_is_bounded(kl, coef):
    """arXiv:1909.08593 section 2.2, with its K of 0.1: 100 completions of a horizon of 1,000."""
    assert next_kl_coef(0.2, kl, target=6.0, completions=100, horizon=1000) == pytest.approx(coef)


def test_it_settles_where_the_kl_is_the_target():
    """A policy whose KL is 1 / coefficient: the only rest is at coefficient = 1 / target."""
    coef = 1.0
    for _ in range(3000):
        coef = next_kl_coef(coef, 1 / coef, target=4.0, completions=50, horizon=1000)
    assert coef == pytest.approx(0.25, rel=1e-3)


def test_a_rollout_larger_than_the_horizon_is_no_leap():
    """Ten horizons at once would take 0.2 to 0.2 (1 - 0.2 x 10) = -0.2: a KL that is rewarded."""
    assert next_kl_coef(0.2, 0.0, target=6.0, completions=10_000, horizon=1000) == pytest.approx(0.16)
    assert next_kl_coef(0.2, 60.0, target=6.0, completions=10_000, horizon=1000) == pytest.approx(0.24)
