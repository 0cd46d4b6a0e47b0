"""Spearman's correlation against scipy and by hand, and its interval."""

import math

import numpy as np
import pytest
import scipy.stats

from posttrain.stats.ranks import rank_correlation, spearman


def test_by_hand():
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert math.isnan(spearman([1, 2], [5, 5]))


def test_ties_are_those_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    assert spearman(one, other) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


def test_the_interval_resamples_groups():
    """Twenty copies of a value in a group are one observation: the interval is that of the groups."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    alone = rank_correlation(x, y, range(30))
    copied = rank_correlation(np.repeat(x, 20), np.repeat(y, 20), np.repeat(range(30), 20))
    assert alone.low < alone.estimate < alone.high
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert copied.n == 30
    assert rank_correlation(x, y, range(30)) == alone


def test_what_has_no_interval():
    assert math.isnan(rank_correlation([1, 2], [1, 2], [0, 0]).low)
    assert math.isnan(rank_correlation([1, 2], [1, 1], [0, 1]).estimate)
    with pytest.raises(ValueError, match="2 values, 1 values"):
        rank_correlation([1, 2], [1], [0, 1])
