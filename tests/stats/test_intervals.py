import math
import subprocess
import sys

import numpy as np
import pytest

from posttrain.stats import bootstrap_mean, mean_over_seeds, wilson


def test_wilson_equals_the_worked_example() -> None:
    # 81 of 263 at 95 %: Newcombe 1998, table I, method 3 (score): 0.2553 to 0.3662.
    interval = wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    # 0 of 20: 0.0000 to 0.1611.
    assert (wilson(0, 20).low, round(wilson(0, 20).high, 4)) == (0.0, 0.1611)
    assert round(wilson(20, 20).low, 4) == 0.8389


def test_wilson_solves_its_equation() -> None:
    # The bounds are the p at which |p_hat - p| = z sqrt(p (1 - p) / n).
    interval = wilson(7, 31, level=0.9)
    for p in (interval.low, interval.high):
        assert abs(7 / 31 - p) == pytest.approx(1.6448536 * math.sqrt(p * (1 - p) / 31), rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 374, 10_000])
def test_wilson_holds_its_estimate_and_stays_in_range(n: int) -> None:
    for successes in {0, 1, n // 3, n - 1, n}:
        interval = wilson(successes, n)
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
        assert interval.low < interval.high


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"no observations|between 0 and n"):
        wilson(successes, n)


def test_bootstrap_mean_is_reproducible_and_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(values.tolist(), seed=5)
    assert interval == bootstrap_mean(values.tolist(), seed=5)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05)


def test_bootstrap_mean_of_equal_values_has_no_width() -> None:
    interval = bootstrap_mean([0.25] * 9)
    assert (interval.low, interval.estimate, interval.high, interval.n) == (0.25, 0.25, 0.25, 9)


def test_mean_over_seeds_uses_student_t() -> None:
    # mean 2, s = 1, n = 3: half-width 4.3027 / sqrt(3) = 2.4841.
    interval = mean_over_seeds([1.0, 2.0, 3.0])
    assert interval.estimate == 2.0
    assert interval.high - 2.0 == pytest.approx(2.4841, abs=1e-4)
    assert 2.0 - interval.low == pytest.approx(2.4841, abs=1e-4)


def test_one_seed_has_no_interval() -> None:
    interval = mean_over_seeds([0.5])
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.percent() == "50.0%"


@pytest.mark.parametrize("function", [bootstrap_mean, mean_over_seeds])
def test_empty_and_non_finite_values_are_refused(function) -> None:
    with pytest.raises(ValueError, match="at least one"):
        function([])
    with pytest.raises(ValueError, match="value 1 is not finite"):
        function([0.0, math.nan])
    with pytest.raises(ValueError, match="level is 95"):
        function([0.0, 1.0], level=95)


def test_stats_never_reach_torch() -> None:
    code = "import sys, posttrain.stats as s; s.mean_over_seeds([1., 2.]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
