"""The exact paired test: Tango's numbers, Clopper and Pearson's where they apply, and its error rate, enumerated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln, xlogy

from posttrain.stats import exact_lower_bound, exact_p_value, wilson
from posttrain.stats.exact_paired import critical_score, paired_score, rejection_probability


def test_score_worked_by_hand() -> None:
    # No change allowed either way: (g - l) / sqrt(g + l), McNemar's: (9 - 1) / sqrt(10).
    assert paired_score(9, 1, 50, 0.0) == pytest.approx(8 / 10**0.5)
    # 4 losses, no gain, 100 questions, at most 10 points allowed: with g = 0 the constrained share of gains is the
    # larger root of 2n q² + B q = 0, B = -4 + 0.1 (200 + 4) = 16.4, so q = 0: (-4 + 10) / sqrt(100 x 0.1 x 0.9) = 2.
    assert paired_score(0, 4, 100, -0.1) == pytest.approx(2.0)
    # n = 10, g = 1, l = 1, t = -0.2: 20 q² + 2 q - 0.16 = 0, q = (-2 + sqrt(16.8)) / 40 = 0.0524695; 2 / sqrt(2.64939)
    assert paired_score(1, 1, 10, -0.2) == pytest.approx(2 / 2.64939**0.5, rel=1e-5)


def test_score_interval_and_exact_test_equal_published_numbers() -> None:
    # 6 and 16 changed of 161 pairs (Cavo et al. 2012, in Fagerland, Lydersen and Laake, Statistical Analysis of
    # Contingency Tables, ch. 8): Tango's 95 % interval is -0.1240 to -0.0054, the exact unconditional P 0.034053.
    inside = [t for t in np.linspace(-0.2, 0.1, 30_001) if abs(paired_score(6, 16, 161, float(t))) <= 1.959964]
    assert (round(min(inside), 4), round(max(inside), 4)) == (-0.1240, -0.0054)
    assert 2 * exact_p_value(16, 6, 161, 0.0) == pytest.approx(0.034053, rel=0.01)  # by symmetry


def test_score_falls_with_every_loss() -> None:
    # what the search for the largest number of losses rests on
    for n in (5, 31, 120):
        for threshold in (-0.95, -0.3, -0.02, 0.0, 0.001, 0.2, 0.9):
            for changed in range(n + 1):
                losses = np.arange(changed + 1.0)
                assert (np.diff(paired_score(changed - losses, losses, n, threshold)) <= 1e-9).all()


def test_p_value_without_any_change_is_the_chance_of_no_loss() -> None:
    # Nothing changed in 50 questions: the likeliest way to lose 5 points is losses only, 0.95^50 = 0.0769.
    assert exact_p_value(0, 0, 50, -0.05) == pytest.approx(0.95**50)
    assert exact_p_value(0, 0, 149, -0.02) < 0.05 < exact_p_value(0, 0, 148, -0.02)


def test_lower_bound_is_where_the_test_turns() -> None:
    for gains, losses, n in ((0, 0, 30), (3, 5, 40), (20, 2, 100), (0, 9, 60), (7, 0, 7)):
        low = exact_lower_bound(gains, losses, n, level=0.95)
        assert exact_p_value(gains, losses, n, low) <= 0.05 < exact_p_value(gains, losses, n, low + 0.003)
    # nothing changed: Clopper and Pearson's bound of 0 in 30 losses, 1 - 0.05^(1/30)
    assert exact_lower_bound(0, 0, 30, level=0.95) == pytest.approx(-(1 - 0.05 ** (1 / 30)), abs=1e-4)
    assert exact_lower_bound(0, 30, 30) == -1.0


def test_bounds_widen_with_the_level_and_surround_the_estimate() -> None:
    bounds = [exact_lower_bound(6, 9, 80, level=level) for level in (0.8, 0.9, 0.95, 0.99)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] < -3 / 80 < -exact_lower_bound(9, 6, 80, level=0.8)


def enumerated(n: int, threshold: float, changed: float, alpha: float) -> tuple[float, float]:
    """The chance that (the exact test, the normal approximation) rejects a null that is true, over every table."""
    g, b = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    keep = g + b <= n
    g, b = g[keep], b[keep]
    up, down = (changed + threshold) / 2, (changed - threshold) / 2
    log = gammaln(n + 1) - gammaln(g + 1) - gammaln(b + 1) - gammaln(n - g - b + 1)
    chance = np.exp(log + xlogy(g, up) + xlogy(b, down) + xlogy(n - g - b, 1 - changed))
    score = paired_score(g, b, n, threshold)
    return (
        float(chance[score >= critical_score(n, threshold, alpha)].sum()),
        float(chance[score >= {0.05: 1.644854, 0.01: 2.326348}[alpha]].sum()),
    )


@pytest.mark.parametrize("n", [15, 60, 150])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_error_rate_is_nominal_at_most_whatever_changes(n: int, alpha: float) -> None:
    exact, normal = [], []
    for threshold in (-0.1, -0.02, 0.0, 0.05):
        for changed in (abs(threshold) + 0.001, 0.08, 0.15, 0.4, 0.9):
            if changed >= abs(threshold):
                rates = enumerated(n, threshold, changed, alpha)
                exact.append(rates[0])
                normal.append(rates[1])
    assert max(exact) <= alpha * 1.005  # the shares of changed answers are a grid
    assert max(normal) > alpha * 1.02  # what the exact test is for
    assert max(exact) > alpha / 2  # and it does not buy that with never rejecting


def test_rejection_probability_equals_enumeration() -> None:
    score = critical_score(60, -0.1, 0.05)
    said = rejection_probability(score, 60, -0.1, changed=[0.15, 0.4], difference=-0.1)
    assert said.tolist() == pytest.approx([enumerated(60, -0.1, c, 0.05)[0] for c in (0.15, 0.4)], abs=1e-9)


def test_critical_score_and_p_value_decide_alike() -> None:
    rng = np.random.default_rng(0)
    score = critical_score(90, -0.05, 0.03)
    for _ in range(60):
        gains, losses = int(rng.integers(0, 8)), int(rng.integers(0, 8))
        if abs(paired_score(gains, losses, 90, -0.05) - score) > 1e-5:
            said = bool(paired_score(gains, losses, 90, -0.05) >= score)
            assert (exact_p_value(gains, losses, 90, -0.05) <= 0.03) == said
    assert paired_score(5, 0, 5, -0.02) < critical_score(5, -0.02, 0.001)  # five questions cannot show it at all


def test_all_gained_lies_above_wilsons_half() -> None:
    assert 0.5 < exact_lower_bound(20, 0, 20) < wilson(20, 20).estimate


@pytest.mark.parametrize(("gains", "losses", "n"), [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_counts_are_refused(gains: int, losses: int, n: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        exact_p_value(gains, losses, n, 0.0)
    with pytest.raises(ValueError, match="threshold is 1"):
        exact_p_value(1, 1, 5, 1.0)
