from __future__ import annotations

import pytest

from posttrain.stats import questions_needed, smallest_difference, smallest_max_loss
from posttrain.stats.exact_paired import critical_score, rejection_probability


def test_questions_needed_worked_by_hand() -> None:
    # McNemar, two-sided 5 %, a tenth changes, 5 points gained: ((1.959964 sqrt(0.1) + 0.841621 sqrt(0.0975)) / 0.05)²
    # = ((0.619795 + 0.262795) / 0.05)² = 311.6
    assert questions_needed(0.1, difference=0.05, alpha=0.025) == 312
    # The same change lost instead has the same size.
    assert questions_needed(0.1, difference=-0.05, threshold=-0.1) > 0
    # Nothing changes at all: 0.98^149 < 0.05 < 0.98^148.
    assert questions_needed(0.0, threshold=-0.02) == 149


@pytest.mark.parametrize(
    ("changed", "difference", "threshold", "alpha"),
    [
        (0.05, 0.0, -0.05, 0.05), (0.1, 0.0, -0.05, 0.01), (0.1, 0.0, -0.03, 0.05), (0.3, 0.0, -0.1, 0.05),
        (0.02, 0.0, -0.03, 0.05), (0.1, 0.05, 0.0, 0.05), (0.2, 0.1, 0.0, 0.025), (0.2, 0.1, 0.05, 0.05),
    ],
)  # fmt: skip
def test_the_exact_test_has_the_power_that_was_asked_for(
    changed: float, difference: float, threshold: float, alpha: float
) -> None:
    n = questions_needed(changed, difference=difference, threshold=threshold, alpha=alpha, power=0.8)
    score = critical_score(n, threshold, alpha)
    power = rejection_probability(score, n, threshold, changed=changed, difference=difference)
    assert 0.78 <= float(power[0]) <= 0.87


def test_the_converse_gives_the_questions_back() -> None:
    loss = smallest_max_loss(0.1, 300)
    assert questions_needed(0.1, threshold=-loss) <= 300 < questions_needed(0.1, threshold=-loss * 0.99)
    gain = smallest_difference(0.1, 300, alpha=0.025)
    assert questions_needed(0.1, difference=gain, alpha=0.025) <= 300
    assert 0.05 < gain < 0.052  # 312 questions see 0.05
    with pytest.raises(ValueError, match="too few"):
        smallest_difference(0.01, 20)


def test_what_no_number_of_questions_shows_is_refused() -> None:
    with pytest.raises(ValueError, match="not above"):
        questions_needed(0.1, difference=0.0)
    with pytest.raises(ValueError, match=r"changed is 0\.01"):
        questions_needed(0.01, difference=0.05)
    with pytest.raises(ValueError, match="power 80"):
        questions_needed(0.1, difference=0.05, power=80)
