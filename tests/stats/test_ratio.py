"""A ratio of sums with its bootstrap over texts."""

import math

import numpy as np
import pytest

from posttrain.stats.ratio import bootstrap_ratio


def test_long_texts_weigh_more():
    interval = bootstrap_ratio([1.0, 9.0], [1, 3])
    assert interval.estimate == 2.5  # (1 + 9) / (1 + 3), not the mean of 1 and 3
    assert (interval.low, interval.high, interval.n) == (1.0, 3.0, 2)


def test_equal_counts_are_a_mean_with_the_usual_width():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    interval = bootstrap_ratio(values, np.full(400, 3))
    assert interval.estimate == pytest.approx(values.mean() / 3)
    half = 1.96 * values.std() / math.sqrt(400) / 3
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_a_single_text_has_no_interval():
    interval = bootstrap_ratio([2.0], [4])
    assert interval.estimate == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_ratio([1.0, 2.0, 4.0], [1, 2, 1]) == bootstrap_ratio([1.0, 2.0, 4.0], [1, 2, 1])


@pytest.mark.parametrize(
    ("amounts", "counts"), [([], []), ([1.0], [1, 2]), ([1.0], [0]), ([math.nan], [1]), ([1.0], [math.inf])]
)
def test_what_is_no_ratio_is_refused(amounts, counts):
    with pytest.raises(ValueError):
        bootstrap_ratio(amounts, counts)
