"""A KL coefficient that steers the KL of completions to a target (arXiv:1909.08593 section 2.2)."""

from __future__ import annotations

LARGEST_ERROR = 0.2  # of the target: a rollout far from it changes the coefficient no faster


def next_kl_coef(coef: float, kl: float, *, target: float, completions: int, horizon: int) -> float:
    """The coefficient after a rollout of so many completions with this mean KL.

        e = clip(kl / target - 1, -0.2, 0.2)        coef' = coef (1 + e min(completions / horizon, 1))

    The paper's K is completions / horizon; it took 0.1. A rollout of more than the horizon changes the coefficient as
    one of the horizon does: at five times that the equation would take it below zero, where it rewards drift.
    """
    error = min(max(kl / target - 1, -LARGEST_ERROR), LARGEST_ERROR)
    return coef * (1 + error * min(completions / horizon, 1.0))
