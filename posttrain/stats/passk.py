"""What k samples of a question achieve, estimated from n of them: pass@k and maj@k."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_SAMPLES = 1000  # binomial coefficients beyond do not fit a float


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples is right, from n samples of which some are.

    1 - C(n - c, k) / C(n, k), as a product of factors near 1 (arXiv:2107.03374). The mean over questions is pass@k.
    Raises ValueError for correct outside 0..n or k outside 1..n.
    """
    _check_k(n, k)
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right answers out of {n}: must lie between 0 and n")
    if n - correct < k:
        return 1.0
    return 1 - math.prod(1 - k / i for i in range(n - correct + 1, n + 1))


def maj_at_k(answers: Sequence[str | None], grades: Sequence[float], k: int) -> float:
    """The expected grade of the most frequent answer among k of the n samples, over all ways to draw k of them.

    Exact: it counts the draws with generating functions, not one by one. Answers tied for the most frequent share the
    draw evenly. A sample without an answer (None) does not vote; a draw without votes counts 0. An answer's grade is
    the mean over its samples. Self-consistency is arXiv:2203.11171.
    Raises ValueError where the lists differ in length, for k outside 1..n and for more than 1,000 samples.
    """
    n = len(answers)
    if len(grades) != n:
        raise ValueError(f"{n} answers and {len(grades)} grades: one grade an answer is needed")
    _check_k(n, k)
    if n > _MOST_SAMPLES:
        raise ValueError(f"{n} samples of one question: at most {_MOST_SAMPLES} can be counted")
    by_answer: dict[str, list[float]] = {}
    for answer, grade in zip(answers, grades, strict=True):
        if answer is not None:
            by_answer.setdefault(answer, []).append(grade)
    silent = n - sum(map(len, by_answer.values()))
    groups = [(len(of_one), sum(of_one) / len(of_one)) for of_one in by_answer.values()]
    highest = min(k, max((count for count, _ in groups), default=0))
    return math.fsum(_won_with(votes, groups, silent, k) for votes in range(1, highest + 1)) / math.comb(n, k)


def _won_with(votes: int, groups: Sequence[tuple[int, float]], silent: int, k: int) -> float:
    """The sum, over draws whose most frequent answers have so many votes, of the mean grade of those answers."""
    most = k // votes  # answers that can have so many
    draws = np.zeros((most + 1, k + 1))  # [answers with that many votes, samples drawn]: number of draws
    graded = np.zeros((most + 1, k + 1))  # the sum, over those draws, of those answers' grades
    draws[0] = _choices(silent, k)
    for count, grade in groups:
        fewer = _choices(count, min(votes - 1, count))
        new_draws = np.array([np.convolve(row, fewer)[: k + 1] for row in draws])
        new_graded = np.array([np.convolve(row, fewer)[: k + 1] for row in graded])
        if count >= votes:
            ways = math.comb(count, votes)
            new_draws[1:, votes:] += ways * draws[:-1, : k + 1 - votes]
            new_graded[1:, votes:] += ways * (graded + grade * draws)[:-1, : k + 1 - votes]
        draws, graded = new_draws, new_graded
    return float((graded[1:, k] / np.arange(1, most + 1)).sum())


def _choices(count: int, up_to: int) -> NDArray[np.float64]:
    """C(count, 0) to C(count, up_to)."""
    return np.array([math.comb(count, taken) for taken in range(up_to + 1)], dtype=np.float64)


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} with {n} samples: must lie between 1 and the number of samples")
