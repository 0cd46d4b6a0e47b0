"""Estimates of KL(policy || reference) from tokens that the policy sampled (http://joschu.net/blog/kl-approx.html).

With r = log p_ref(y) - log p(y) of a sampled token y:

    k1 = -r                  unbiased, can be negative, high variance
    k2 = r^2 / 2             biased, low variance
    k3 = exp(r) - r - 1      unbiased, never negative, low variance

These are statements about the values. As terms of a loss, differentiated with y held fixed, their expected gradients
are others: that of k1 is zero (it is the mean of the score), that of k2 is the gradient of the KL itself, and that of
k3 is the gradient of the KL in the other direction, KL(reference || policy).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # exp(20) = 5e8; above it exp has no gradient, far above it float32 has no exp


def _k1(r: Tensor) -> Tensor:
    return -r


def _k2(r: Tensor) -> Tensor:
    return r**2 / 2


def _k3(r: Tensor) -> Tensor:
    r = r.clamp(max=LOG_RATIO_LIMIT)
    return r.exp() - r - 1


KL_ESTIMATES: dict[str, Callable[[Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}  # r [M] -> [M]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k3") -> Tensor:
    """The estimate at each token [M], differentiable in `logprobs`; `kind` is a name of KL_ESTIMATES."""
    return KL_ESTIMATES[kind](ref_logprobs - logprobs)
