"""What a pair costs: the losses of preference training, one short function each, in one table.

Each looks at h(c) and h(r), the log-ratios of the chosen and the rejected answer (posttrain/algorithms/dpo.py), at
their margin d = h(c) - h(r), or at the means over tokens h'. With s the sigmoid and b = beta:

    sigmoid        -log s(b d)                                             arXiv:2305.18290 eq. 7
    hinge          max(0, 1 - b d)                                         arXiv:2305.10425
    robust         (-(1-e) log s(b d) + e log s(-b d)) / (1 - 2e)          arXiv:2403.00409 eq. 8
    ipo            (d' - 1/(2b))^2                                         arXiv:2310.12036 eq. 17
    sigmoid_norm   -log s(b d')                                            arXiv:2411.15124
    exo_pair       KL of (s(b d), s(-b d)) from (1-e, e)                   arXiv:2402.00856 eq. 16
    nca_pair       -log s(b h(c)) - (log s(-b h(c)) + log s(-b h(r))) / 2  arXiv:2402.05369
    bco_pair       -log s(b h(c)) - log s(-b h(r))                         arXiv:2404.04656, its baseline left at 0
    sppo_hard      (h(c) - 1/(2b))^2 + (h(r) + 1/(2b))^2                   arXiv:2405.00675 eq. 4.7
    apo_zero       1 - s(b h(c)) + s(b h(r))                               arXiv:2408.06266 eq. 7
    apo_down       s(b h(c)) + 1 - s(b d)                                  arXiv:2408.06266 eq. 8
    discopop       (1 - m) -log s(b d) + m exp(-b d), m = s(b d / tau)     arXiv:2406.08414 eq. 5

Without a reference model h(y) is log p(y) itself, and these look at that:

    cpo            -(1-e) log s(b d) - e log s(-b d)                       arXiv:2401.08417 eq. 3
    simpo          the same of b d' - gamma                                arXiv:2405.14734 eq. 6
    orpo           -b log s(o(c) - o(r)), o = h' - log(1 - exp h')         arXiv:2403.07691 eq. 7

A loss that sorts the log-ratios of a batch (AOT) is not a sum over pairs, and has no place here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.types import TokenForest


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What a loss of preferences may look at: h(y) of P pairs, summed and as means over tokens."""

    chosen: Tensor  # [P]
    rejected: Tensor  # [P]
    chosen_mean: Tensor  # [P]
    rejected_mean: Tensor  # [P]

    @property
    def margin(self) -> Tensor:
        """[P] d"""
        return self.chosen - self.rejected

    @property
    def mean_margin(self) -> Tensor:
        """[P] d'"""
        return self.chosen_mean - self.rejected_mean


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The numbers that losses depend on."""

    beta: float = 0.1
    label_smoothing: float = 0.0  # e
    discopop_tau: float = 0.05
    simpo_gamma: float = 0.5
    reward_alpha: float = 0.0  # of AlphaPO, which bends SimPO's reward


def _sigmoid(pairs: Pairs, given: PairSettings) -> Tensor:
    return -logsigmoid(given.beta * pairs.margin)


def _hinge(pairs: Pairs, given: PairSettings) -> Tensor:
    return torch.relu(1 - given.beta * pairs.margin)


def _robust(pairs: Pairs, given: PairSettings) -> Tensor:
    margin, flipped = given.beta * pairs.margin, given.label_smoothing
    return (-(1 - flipped) * logsigmoid(margin) + flipped * logsigmoid(-margin)) / (1 - 2 * flipped)


def _ipo(pairs: Pairs, given: PairSettings) -> Tensor:
    return (pairs.mean_margin - 1 / (2 * given.beta)) ** 2


def _sigmoid_norm(pairs: Pairs, given: PairSettings) -> Tensor:
    return -logsigmoid(given.beta * pairs.mean_margin)


def _exo_pair(pairs: Pairs, given: PairSettings) -> Tensor:
    right, wrong = logsigmoid(given.beta * pairs.margin), logsigmoid(-given.beta * pairs.margin)
    said, flipped = math.log1p(-given.label_smoothing), math.log(given.label_smoothing)
    return right.exp() * (right - said) + wrong.exp() * (wrong - flipped)


def _nca_pair(pairs: Pairs, given: PairSettings) -> Tensor:
    chosen, rejected = given.beta * pairs.chosen, given.beta * pairs.rejected
    return -logsigmoid(chosen) - 0.5 * (logsigmoid(-chosen) + logsigmoid(-rejected))


def _bco_pair(pairs: Pairs, given: PairSettings) -> Tensor:
    return -logsigmoid(given.beta * pairs.chosen) - logsigmoid(-given.beta * pairs.rejected)


def _sppo_hard(pairs: Pairs, given: PairSettings) -> Tensor:
    wanted = 1 / (2 * given.beta)
    return (pairs.chosen - wanted) ** 2 + (pairs.rejected + wanted) ** 2


def _apo_zero(pairs: Pairs, given: PairSettings) -> Tensor:
    return 1 - torch.sigmoid(given.beta * pairs.chosen) + torch.sigmoid(given.beta * pairs.rejected)


def _apo_down(pairs: Pairs, given: PairSettings) -> Tensor:
    return torch.sigmoid(given.beta * pairs.chosen) + 1 - torch.sigmoid(given.beta * pairs.margin)


def _discopop(pairs: Pairs, given: PairSettings) -> Tensor:
    margin = given.beta * pairs.margin
    exponential = logsigmoid(margin / given.discopop_tau) - margin  # log(m exp(-b d)): each factor alone overflows
    return -torch.sigmoid(-margin / given.discopop_tau) * logsigmoid(margin) + exponential.exp()


def _smoothed(margin: Tensor, smoothing: float) -> Tensor:
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def _cpo(pairs: Pairs, given: PairSettings) -> Tensor:
    return _smoothed(given.beta * pairs.margin, given.label_smoothing)


def _simpo(pairs: Pairs, given: PairSettings) -> Tensor:
    margin = pairs.mean_margin
    if given.reward_alpha:  # arXiv:2501.03884: the reward (1 - p^-alpha) / alpha, log p where alpha -> 0
        margin = _power(pairs.chosen_mean, -given.reward_alpha) - _power(pairs.rejected_mean, -given.reward_alpha)
    return _smoothed(given.beta * margin - given.simpo_gamma, given.label_smoothing)


def _orpo(pairs: Pairs, given: PairSettings) -> Tensor:
    def log_odds(mean: Tensor) -> Tensor:
        mean = mean.clamp(max=-1e-7)  # an answer that is certain has infinite odds
        return mean - torch.log(-torch.expm1(mean))

    return -given.beta * logsigmoid(log_odds(pairs.chosen_mean) - log_odds(pairs.rejected_mean))


PREFERENCE_LOSSES: dict[str, Callable[[Pairs, PairSettings], Tensor]] = {  # -> [P]
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "robust": _robust,
    "ipo": _ipo,
    "sigmoid_norm": _sigmoid_norm,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "cpo": _cpo,
    "simpo": _simpo,
    "orpo": _orpo,
}


def _power(log_ratio: Tensor, power: float) -> Tensor:
    """(u^power - 1) / power with log u given, which is log u where power -> 0."""
    if abs(power) < 1e-6:
        return log_ratio
    return torch.expm1((power * log_ratio).clamp(max=80.0)) / power  # e^80 is still a float32


DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {  # (h, alpha) -> f'(u) with u = exp h
    "reverse_kl": lambda h, alpha: h,
    "forward_kl": lambda h, alpha: _power(h, -1.0),
    "js_divergence": lambda h, alpha: math.log(2) + logsigmoid(h),
    "alpha_divergence": lambda h, alpha: _power(h, alpha - 1),
}
"""What takes the place of h where the policy is held to the reference by another divergence than the reverse KL.

arXiv:2309.16240: `f'(u)`, in losses that look at differences between the answers only, since what is
left out of f' cancels there.
"""


def shared_length_weights(forest: TokenForest, alpha: float) -> Tensor:
    """[M]: 1 for the tokens up to the length of a pair's shorter answer, `alpha` for those of the longer one beyond it.

    arXiv:2409.06411. Leaves 2i and 2i + 1 are a pair.
    """
    lengths = torch.tensor(forest.trained, dtype=torch.int64, device=forest.sequence.device)
    starts = torch.tensor(forest.trained_before[:-1], dtype=torch.int64, device=forest.sequence.device)
    shared = torch.minimum(lengths[0::2], lengths[1::2]).repeat_interleave(2)
    place = torch.arange(len(forest.sequence), device=forest.sequence.device) - starts[forest.sequence]
    return torch.where(place < shared[forest.sequence], 1.0, alpha)
