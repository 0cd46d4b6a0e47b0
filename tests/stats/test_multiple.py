from __future__ import annotations

import numpy as np
import pytest

from posttrain.stats import fallback, holm


def test_holm_worked_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06 (not 0.06 -> 0.06), 0.06 (not 0.04)
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_fallback_worked_by_hand() -> None:
    # The first rejects and hands 0.03 on, the second has 0.06 and rejects, the third has 0.09 and does not, so the
    # fourth has only its own 0.04.
    levels, rejected = fallback([0.02, 0.055, 0.1, 0.041], [0.03, 0.03, 0.03, 0.04])
    assert levels.tolist() == pytest.approx([0.03, 0.06, 0.09, 0.04])
    assert rejected.tolist() == [True, True, False, False]


def test_fallback_gives_all_to_the_last_where_all_reject_and_never_less_than_its_share() -> None:
    assert fallback([0.0] * 5, [0.01] * 5)[0][-1] == pytest.approx(0.05)
    p = np.random.default_rng(0).random((1000, 4)) * 0.1
    levels, rejected = fallback(p, [0.01, 0.01, 0.01, 0.02])
    assert (rejected >= (p <= [0.01, 0.01, 0.01, 0.02])).all()
    assert (levels >= [0.01, 0.01, 0.01, 0.02]).all()
    with pytest.raises(ValueError, match="4 tests and 2 shares"):
        fallback(p, [0.01, 0.04])


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("surely_rejected", [0, 2])
def test_any_false_rejection_is_as_rare_as_alpha(correlation: float, surely_rejected: int) -> None:
    # Six tests; the first ones are of false nulls that are always rejected and hand their share on.
    from scipy.special import ndtr

    rng = np.random.default_rng(1)
    common, own = rng.standard_normal((40_000, 1)), rng.standard_normal((40_000, 6))
    p = ndtr(correlation**0.5 * common + (1 - correlation) ** 0.5 * own)
    p[:, :surely_rejected] = 0.0
    _, rejected = fallback(p, [0.005] * 5 + [0.025])
    rate = rejected[:, surely_rejected:].any(axis=1).mean()
    assert rate <= 0.05 + 3 * (0.05 * 0.95 / 40_000) ** 0.5
    uncorrected = (p[:, surely_rejected:] <= 0.05).any(axis=1).mean()
    assert correlation == 1.0 or uncorrected > 0.055  # the choice among several is what costs
