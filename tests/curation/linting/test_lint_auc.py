import numpy as np
import pytest

from posttrain.curation.linting.auc import Fold, area, folds_area, paired_area, smallest_seen


def test_area_by_hand():
    # 3 > 1 and 2.5; 2 > 1 but not 2.5: three of four. A tie counts half.
    assert area(np.array([3.0, 2.0]), np.array([1.0, 2.5])) == 0.75
    assert area(np.array([1.0]), np.array([1.0, 0.0])) == 0.75


def test_paired_area_by_hand():
    # Positives 2, 1, -0.5 and negatives -2, -1, 0.5: 3 + 3 + 2 of nine.
    assert paired_area([2, 1, -0.5]).estimate == pytest.approx(8 / 9)


def test_paired_area_is_that_of_both_orders():
    values = np.array([0.3, -0.1, 0.0, 2.0, -0.7, 0.3])
    wins = [(one > -other) + (one == -other) / 2 for one in values for other in values]
    assert paired_area(values).estimate == pytest.approx(np.mean(wins))
    assert paired_area(-values).estimate == pytest.approx(1 - np.mean(wins))


def test_perfect_separation_of_few_pairs_keeps_a_width():
    # Every resample is perfect too. Wilson for 0.75 x 8 = 6 observations at z = 1.96: low = 6 / (6 + 3.8415)
    interval = paired_area([1.0] * 8)
    assert interval.estimate == 1.0
    assert interval.low == pytest.approx(6 / (6 + 1.959964**2), abs=1e-6)
    assert interval.high == 1.0


def test_pairs_of_one_prompt_are_one_observation():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(0.3, 1.0, 20), 10)
    alone = paired_area(values)
    grouped = paired_area(values, np.repeat(np.arange(20), 10).tolist())
    assert grouped.n == 20
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_interval_covers_chance():
    generator = np.random.default_rng(1)
    found = [paired_area(generator.normal(size=60), seed=i) for i in range(40)]
    covered = sum(interval.low <= 0.5 <= interval.high for interval in found)
    assert covered >= 35  # 38 expected of 95%


def test_folds_are_not_compared_with_each_other():
    # Within each fold perfect, though the good one of the second is below the bad one of the first.
    labels = np.array([True, False])
    first = Fold(scores=np.array([2.0, 1.0]), labels=labels, groups=np.array([0, 1]))
    second = Fold(scores=np.array([-5.0, -6.0]), labels=labels, groups=np.array([2, 3]))
    assert folds_area([first, second]).estimate == 1.0


def test_smallest_seen_is_where_an_interval_leaves_the_limit():
    seen = smallest_seen(300, 0.55, level=0.95)
    # 0.55 + 1.96 sqrt(0.55 x 0.45 / 225)
    assert seen == pytest.approx(0.55 + 1.959964 * (0.2475 / 225) ** 0.5, abs=1e-6)
    assert smallest_seen(3, 0.55, level=0.95) <= 1.0
