"""pass@k and maj@k, against numbers worked by hand and every draw counted one by one."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest

from posttrain.stats import maj_at_k, pass_at_k


def test_pass_at_k_worked_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == pytest.approx(1 - 3 / 6)  # C(3,2) / C(4,2)
    assert pass_at_k(5, 2, 3) == pytest.approx(1 - 1 / 10)  # C(3,3) / C(5,3)
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 3, 3) == 1.0  # two wrong answers cannot fill three places


def test_pass_at_k_is_unbiased() -> None:
    # Averaged over c ~ Binomial(6, 0.3) it is 1 - 0.7^3, which the plug-in 1 - (1 - c/n)^k is not.
    chances = [comb(6, c) * 0.3**c * 0.7 ** (6 - c) for c in range(7)]
    assert sum(p * pass_at_k(6, c, 3) for c, p in enumerate(chances)) == pytest.approx(1 - 0.7**3, abs=1e-12)
    assert abs(sum(p * (1 - (1 - c / 6) ** 3) for c, p in enumerate(chances)) - (1 - 0.7**3)) > 0.02


def test_pass_at_k_of_thousands_of_samples_is_stable() -> None:
    exact = 1 - comb(19_990, 100) / comb(20_000, 100)  # integers, divided once
    assert pass_at_k(20_000, 10, 100) == pytest.approx(exact, rel=1e-10)


def test_maj_at_k_worked_by_hand() -> None:
    # Two right, one wrong, k = 2: {r, r} wins, {r, w} twice is a tie that counts half: (1 + 1/2 + 1/2) / 3.
    assert maj_at_k(["7", "7", "8"], [1, 1, 0], 2) == pytest.approx(2 / 3)
    assert maj_at_k(["7", "7", "8"], [1, 1, 0], 3) == 1.0
    assert maj_at_k(["7", "8", "8"], [1, 0, 0], 1) == pytest.approx(1 / 3)  # k = 1 is the mean
    # A sample without an answer does not vote: {r, none} is won by r, {w, none} by w, {r, w} is a tie.
    assert maj_at_k(["7", "8", None], [1, 0, 0], 2) == pytest.approx((1 + 0 + 0.5) / 3)
    assert maj_at_k([None, None], [0, 0], 2) == 0.0


def drawn_one_by_one(answers: list[str | None], grades: list[float], k: int) -> float:
    mean = {a: np.mean([g for b, g in zip(answers, grades) if b == a]) for a in answers}
    won = []
    for draw in combinations(answers, k):
        votes = Counter(answer for answer in draw if answer is not None)
        best = [answer for answer, count in votes.items() if count == max(votes.values())]
        won.append(np.mean([mean[answer] for answer in best]) if best else 0.0)
    return float(np.mean(won))


@pytest.mark.parametrize("seed", range(6))
def test_maj_at_k_equals_counting_every_draw(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = [[None, "a", "b", "c", "d"][i] for i in rng.integers(0, 5, 9)]
    grades = rng.random(9).tolist() if seed % 2 else [float(answer == "a") for answer in answers]
    for k in range(1, 10):
        assert maj_at_k(answers, grades, k) == pytest.approx(drawn_one_by_one(answers, grades, k), abs=1e-12)


def test_maj_at_k_of_many_samples() -> None:
    # 600 right and 400 wrong: among 301 drawn, the right one nearly always wins.
    assert maj_at_k(["r"] * 600 + ["w"] * 400, [1] * 600 + [0] * 400, 301) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="at most 1000"):
        maj_at_k(["r"] * 1001, [1] * 1001, 2)


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_impossible_counts_are_refused(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        pass_at_k(n, correct, k)


def test_maj_at_k_needs_a_grade_for_each_answer() -> None:
    with pytest.raises(ValueError, match="one grade an answer"):
        maj_at_k(["a"], [], 1)
