"""Agreement beyond chance, against numbers worked by hand."""

from __future__ import annotations

import math
import random

import pytest

from posttrain.stats.agreement import cohen_kappa, cohen_kappa_interval, fleiss_kappa, fleiss_kappa_interval


def judged(table: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    pairs = [pair for pair, count in table.items() for _ in range(count)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_cohen_by_hand():
    # 50 things: alike in 35 (0.7). Says yes: the first 25 of 50, the second 30 of 50.
    # By chance: 0.5 x 0.6 + 0.5 x 0.4 = 0.5; (0.7 - 0.5) / 0.5 = 0.4.
    first, second = judged({("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15})
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_cohen_with_three_categories_by_hand():
    # 10 things, alike in 3 + 2 + 3 = 8. First: 4 a, 3 b, 3 tie; second: 3 a, 3 b, 4 tie.
    # By chance (4 x 3 + 3 x 3 + 3 x 4) / 100 = 0.33; (0.8 - 0.33) / 0.67 = 47/67.
    first = [*"aaaabbb", "tie", "tie", "tie"]
    second = [*"aaabbb", "tie", "tie", "tie", "tie"]
    assert cohen_kappa(first, second) == pytest.approx(47 / 67)


def test_the_ends():
    assert cohen_kappa([0, 1, 0, 1], [0, 1, 0, 1]) == 1
    assert cohen_kappa([0, 1, 0, 1], [1, 0, 1, 0]) == -1
    assert cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0
    assert math.isnan(cohen_kappa([0, 0], [0, 0]))
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))


def test_fleiss_by_hand():
    # Three people, three things. P = 1, 1/3 (of three pairs one agrees), 1; mean 7/9.
    # Shares of the nine judgements: (3 + 1) / 9 and 5 / 9; by chance 16/81 + 25/81 = 41/81.
    # (63/81 - 41/81) / (40/81) = 22/40.
    assert fleiss_kappa([[3, 0], [1, 2], [0, 3]]) == pytest.approx(0.55)


def test_the_table_that_fleiss_is_usually_shown_with():
    # ten things, fourteen people, five categories: 0.210 in every textbook
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(table) == pytest.approx(0.210, abs=5e-4)


def test_things_judged_by_fewer_than_two_say_nothing():
    assert fleiss_kappa([[3, 0], [1, 2], [0, 3], [1, 0], [0, 0]]) == pytest.approx(0.55)


def test_numbers_of_people_may_differ():
    # P = 1 (of two) and 1/3 (of three); mean 2/3. Shares 3/5 and 2/5: 13/25. (2/3 - 13/25) / (12/25) = 11/36.
    assert fleiss_kappa([[2, 0], [1, 2]]) == pytest.approx(11 / 36)


def test_intervals_hold_the_estimate_and_narrow():
    few = judged({("a", "a"): 8, ("a", "b"): 2, ("b", "b"): 10})
    many = judged({("a", "a"): 80, ("a", "b"): 20, ("b", "b"): 100})
    narrow, wide = cohen_kappa_interval(*many), cohen_kappa_interval(*few)
    assert wide.estimate == narrow.estimate == pytest.approx(cohen_kappa(*few))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert wide == cohen_kappa_interval(*few)
    assert (wide.n, narrow.n) == (20, 200)
    counts = [[3, 0], [1, 2], [0, 3], [2, 1]] * 5
    found = fleiss_kappa_interval(counts, resamples=500)
    assert found.low < found.estimate == fleiss_kappa(counts) < found.high


def test_people_who_guess_agree_by_chance_only():
    rng = random.Random(0)
    first, second = ([rng.choice("ab") for _ in range(400)] for _ in range(2))
    found = cohen_kappa_interval(first, second)
    assert found.low < 0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)  # the standard error is 1 / sqrt(400)


@pytest.mark.parametrize("bad", [([], []), ([1], [1, 2])])
def test_lists_that_do_not_match_are_refused(bad):
    with pytest.raises(ValueError, match="two judgements of each thing"):
        cohen_kappa(*bad)


@pytest.mark.parametrize("bad", [[1, 2], [[1, -1]], [[0.5, 1.5]], [[1, 0], [0, 1]]])
def test_counts_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=r"counts \[things|by two people"):
        fleiss_kappa(bad)
