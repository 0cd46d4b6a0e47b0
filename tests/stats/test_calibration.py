"""Calibration and the rule of lengths, worked by hand."""

import math

import pytest

from posttrain.stats.calibration import length_only_accuracy, longer_is_better, reliability


def test_bins_worked_by_hand():
    """Confidences 0.95, 0.95, 0.72, 0.5: of the first two one is right, the third is wrong, the fourth half right."""
    found = reliability([0.95, 0.05, 0.28, 0.5], bins=5)
    held = {round(b.low, 1): b for b in found.bins if b.count}
    assert {low: (b.count, round(b.confidence, 6), b.accuracy) for low, b in held.items()} == {
        0.9: (2, 0.95, 0.5), 0.7: (1, 0.72, 0.0), 0.5: (1, 0.5, 0.5),
    }  # fmt: skip
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 0.72**2 + 0.5**2) / 4)
    assert found.ece == pytest.approx((2 * 0.45 + 0.72 + 0.0) / 4)


def test_the_ends_belong_to_a_bin_and_empty_ones_say_so():
    found = reliability([1.0, 0.0, 0.5])
    assert [b.count for b in found.bins] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert math.isnan(found.bins[4].accuracy)
    assert "100%" in found.text()


def test_perfectly_calibrated_pairs_have_no_error():
    assert reliability([0.75] * 3 + [0.25]).ece == pytest.approx(0.0)


@pytest.mark.parametrize("bad", [[], [1.2], [float("nan")]])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match="probability"):
        reliability(bad)


def test_the_rule_of_lengths():
    assert length_only_accuracy([5, 2, 3, 9], [1, 4, 3, 8]) == 0.625  # right, wrong, a draw, right
    assert length_only_accuracy([5, 2, 3, 9], [1, 4, 3, 8], longer=False) == 0.375
    assert longer_is_better([5, 2, 9], [1, 4, 8])
    assert not longer_is_better([1, 4, 8], [5, 2, 9])
    with pytest.raises(ValueError, match="lengths"):
        length_only_accuracy([], [])
