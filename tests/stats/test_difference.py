"""Differences of two models on the same questions: hand-worked, and covered as often as they say."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from posttrain.stats import (
    above_p_value,
    bounded_lower_bound,
    bounded_p_value,
    changed_share,
    difference_p_value,
    exact_p_value,
    paired_difference,
)


def test_right_and_wrong_go_through_the_exact_test() -> None:
    first, second = [1.0] * 8 + [0.0] * 12, [1.0] * 7 + [0.0] + [1.0] * 5 + [0.0] * 7  # 5 gains, 1 loss of 20
    interval = paired_difference(first, second)
    assert interval.estimate == pytest.approx(4 / 20)
    assert interval.low < 0.2 < interval.high
    assert above_p_value(first, second, 0.0) == exact_p_value(5, 1, 20, 0.0)
    assert difference_p_value(first, second) == 14 / 64  # McNemar: 2 (C(6,0) + C(6,1)) / 2^6
    turned = paired_difference(second, first)
    assert (turned.low, turned.high) == pytest.approx((-interval.high, -interval.low))


def test_equal_answers_leave_a_width() -> None:
    for grades in ([1.0] * 40, [0.5] * 40):
        interval = paired_difference(grades, grades)
        assert interval.estimate == 0.0
        assert interval.low < -0.05
        assert interval.high > 0.05


def test_interval_misses_the_truth_no_more_often_than_it_says() -> None:
    # Small counts, where the mean with two standard errors misses far more often than 10 % of the time. Each table's
    # chance is known, so this is no simulation.
    n, losses, gains = 30, 0.06, 0.01
    truth = gains - losses
    missed = naive = 0.0
    for lost in range(8):
        for gained in range(4):
            same = n - lost - gained
            chance = (
                comb(n, lost) * comb(n - lost, gained) * losses**lost * gains**gained * (1 - losses - gains) ** same
            )
            first, second = [1] * lost + [0] * (n - lost), [0] * lost + [1] * gained + [0] * same
            interval = paired_difference(first, second, level=0.9)
            missed += chance * (not interval.low <= truth <= interval.high)
            mean = (gained - lost) / n
            half = 1.645 * (((lost + gained) / n - mean**2) / (n - 1)) ** 0.5
            naive += chance * (abs(mean - truth) > half)
    assert 0.01 < missed <= 0.1
    assert naive > 0.15


@pytest.mark.parametrize("n", [60, 300])
def test_bounded_test_errs_at_most_as_often_as_it_says(n: int) -> None:
    # Means of two samples a question: differences of 0, 1/2 and 1, most of them 0; the true mean is the threshold.
    rng = np.random.default_rng(n)
    moved = rng.choice([-1.0, -0.5, 0.0, 0.5], size=(2000, n), p=[0.02, 0.06, 0.86, 0.06])
    rejected = (bounded_p_value(moved, -1.0, -0.02) <= 0.05).mean()
    assert 0.001 < rejected <= 0.05 + 2 * (0.05 * 0.95 / 2000) ** 0.5


def test_bounded_bound_is_clopper_and_pearsons_for_two_values() -> None:
    # No success in 30: the lower bound of the share of failures 1 - p; here values 0 with smallest -1.
    assert bounded_lower_bound([0.0] * 30, -1.0) == pytest.approx(-(1 - 0.05 ** (1 / 30)), abs=2e-3)
    assert bounded_lower_bound([0.3, 0.9], 0.0, seed=1) == bounded_lower_bound([0.3, 0.9], 0.0, seed=1)


def test_bounded_test_and_bound_agree() -> None:
    values = np.random.default_rng(0).uniform(-0.2, 0.3, 50)
    low = bounded_lower_bound(values, -1.0, level=0.95)
    assert bounded_p_value(values, -1.0, low - 0.005) <= 0.05 < bounded_p_value(values, -1.0, low + 0.005)


def test_sign_flips_worked_by_hand() -> None:
    # Differences 1/2, 1/2, 1/4: |sum| >= 5/4 for two of the eight ways to sign them.
    assert difference_p_value([0, 0, 0, 0.5], [0.5, 0.5, 0.25, 0.5]) == 2 / 8
    assert difference_p_value([0.5, 0.5], [0.5, 0.5]) == 1.0
    first = [0.0] * 40
    assert difference_p_value(first, [0.5] * 40) == pytest.approx(1 / 10_001)  # never 0
    mixed = [0.5 if i % 2 else 0.0 for i in range(40)], [0.0 if i % 2 else 0.5 for i in range(40)]
    assert difference_p_value(*mixed) > 0.9


def test_changed_share_has_one_more_than_was_seen() -> None:
    assert changed_share([1, 0, 1, 0], [1, 1, 1, 0]) == pytest.approx(2 / 5)
    assert changed_share([0.5] * 9, [0.5] * 9) == pytest.approx(1 / 10)
    assert changed_share([0], [1]) == 1.0


def test_grades_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="2 grades against 1"):
        paired_difference([0, 1], [1])
    with pytest.raises(ValueError, match="no grades"):
        above_p_value([], [], 0.0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        difference_p_value([0, float("nan")], [1, 1])
    with pytest.raises(ValueError, match="at least -1"):
        bounded_lower_bound([-2.0], -1.0)
