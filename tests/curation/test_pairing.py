"""Which answers make a pair, with numbers worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.curation.pairing import pairs_of, two_sigma_below

SCORES = [0.0, 1.0, 0.25, 1.0, 0.5]


def test_best_against_worst_takes_the_first_of_equals() -> None:
    assert pairs_of(SCORES, "best_worst") == [(1, 0)]
    assert pairs_of([1.0, 0.0, 0.0], "best_worst") == [(0, 1)]


def test_ties_are_no_pairs() -> None:
    for how in ("best_worst", "best_vs_two_sigma", "all_above_margin"):
        assert pairs_of([0.5, 0.5, 0.5], how) == []
        assert pairs_of([0.5], how) == []
        assert pairs_of([], how) == []


def test_two_sigma_below_the_mean_by_hand() -> None:
    # the mean is 5; the squares of what lies around it are 9, 1, 1, 1, 0, 0, 4, 16, whose mean is 4
    assert two_sigma_below([2, 4, 4, 4, 5, 5, 7, 9]) == 1.0


def test_the_outlier_is_not_the_one_near_two_sigma() -> None:
    # mean 0, deviation sqrt((100 + 4 * 4 + 9 * 4) / 9) = 4.109; the aim is -8.22, between -10 and -2: -10 is nearer
    near = [3.0, 3.0, 3.0, 3.0, 2.0, 2.0, -2.0, -4.0, -10.0]
    assert math.isclose(sum(near), 0.0)
    assert pairs_of(near, "best_vs_two_sigma") == [(0, 8)]
    # many answers and one outlier: -20 is four deviations away, -9 is the one near two
    scores = [1.0] * 20 + [-9.0, -20.0]
    mean = (20 - 29) / 22
    deviation = math.sqrt((20 * (1 - mean) ** 2 + (-9 - mean) ** 2 + (-20 - mean) ** 2) / 22)
    assert abs(-9 - (mean - 2 * deviation)) < abs(-20 - (mean - 2 * deviation))
    assert pairs_of(scores, "best_vs_two_sigma") == [(0, 20)]
    assert pairs_of(scores, "best_worst") == [(0, 21)]


def test_all_above_the_margin_widest_first() -> None:
    assert pairs_of([0.0, 1.0, 0.5], "all_above_margin", margin=0.5) == [(1, 0), (1, 2), (2, 0)]
    assert pairs_of([0.0, 1.0, 0.5], "all_above_margin", margin=0.6) == [(1, 0)]
    assert pairs_of([0.0, 1.0, 0.5], "all_above_margin", max_pairs=2) == [(1, 0), (1, 2)]


def test_a_margin_holds_for_every_way() -> None:
    assert pairs_of([0.0, 0.3], "best_worst", margin=0.3) == [(1, 0)]
    assert pairs_of([0.0, 0.3], "best_worst", margin=0.31) == []
    assert pairs_of([0.1, 0.2, 0.3], "best_worst", margin=0.2) == [(2, 0)]  # 0.3 - 0.1 is a hair below 0.2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(-100, 100, allow_nan=False), max_size=12),
    st.sampled_from(["best_worst", "best_vs_two_sigma", "all_above_margin"]),
    st.floats(0, 50),
)
def test_chosen_is_better_by_the_margin(scores: list[float], how: str, margin: float) -> None:
    found = pairs_of(scores, how, margin=margin)
    for better, worse in found:
        assert scores[better] > scores[worse]
        assert scores[better] - scores[worse] >= margin - 1e-9
    apart = len(scores) > 1 and max(scores) > min(scores) and max(scores) - min(scores) >= margin + 1e-9
    assert bool(found) or not apart
    assert len(found) == len(set(found))


@pytest.mark.parametrize("how", ["best_worst", "best_vs_two_sigma"])
def test_one_pair_a_prompt_with_the_best_chosen(how: str) -> None:
    ((better, _),) = pairs_of(SCORES, how)
    assert SCORES[better] == max(SCORES)
