"""Generalised advantage estimation: how much better each token was than the value model expected (arXiv:1506.02438).

A completion of T tokens has rewards r_t and values V(s_t), where s_t is the prompt and the tokens before t. With the
temporal difference d_t, the advantage (eq. 16 there, eq. 11 of arXiv:1707.06347) and the return are

    d_t = r_t + gamma V(s_{t+1}) - V(s_t)        A_t = sum_k (gamma lam)^k d_{t+k}        R_t = A_t + V(s_t)

V after the last token is 0, for an end is an end; a completion that was only cut off may be given an `end_value`
instead. lam = 1 is the discounted sum of rewards less V, lam = 0 looks one token ahead. Returns are the value model's
targets and are never whitened.

A fixed lam forgets the end of a long completion, where its reward is. The length-adaptive one gives every length the
same share of it: the weights lam^k then sum to alpha l (arXiv:2504.05118).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

EPSILON = 1e-8  # added to the variance that is divided by


def gae(
    rewards: Sequence[float], values: Sequence[float], *, gamma: float = 1.0, lam: float = 0.95, end_value: float = 0.0
) -> list[float]:
    """The advantage of each token of one completion [T]."""
    advantages = [0.0] * len(rewards)
    following, later = end_value, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        later = rewards[t] + gamma * following - values[t] + gamma * lam * later
        advantages[t], following = later, values[t]
    return advantages


def returns(advantages: Sequence[float], values: Sequence[float]) -> list[float]:
    """What the values should have been [T]; of advantages that are not whitened."""
    return [advantage + value for advantage, value in zip(advantages, values, strict=True)]


def length_adaptive_lam(length: int, alpha: float) -> float:
    """1 - 1 / (alpha length), 0 for a completion too short for it (arXiv:2504.05118, where alpha is 0.05)."""
    return max(0.0, 1.0 - 1.0 / (alpha * length))


def whitened(
    rows: Sequence[Sequence[float]],
    *,
    gather: Callable[[list[float]], list[list[float]]] = lambda mine: [mine],
    shift: bool = True,
) -> list[list[float]]:
    """The rows with mean 0 and variance 1 over all their values, of all processes; the mean is kept without `shift`.

    `gather` gives everyone's numbers. One value alone has no spread: it becomes 0, or stays without `shift`.
    """
    sums = gather([float(sum(map(len, rows))), math.fsum(value for row in rows for value in row)])
    count = sum(row[0] for row in sums)
    mean = math.fsum(row[1] for row in sums) / count if count else 0.0
    squares = gather([math.fsum((value - mean) ** 2 for row in rows for value in row)])
    if count < 2:
        return [[0.0 if shift else value for value in row] for row in rows]
    scale = 1 / math.sqrt(math.fsum(row[0] for row in squares) / (count - 1) + EPSILON)
    kept = 0.0 if shift else mean
    return [[(value - mean) * scale + kept for value in row] for row in rows]
