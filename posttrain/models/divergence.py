"""How far two models' next-token distributions are apart, exactly: summed over the vocabulary at every position.

With p the start's distribution and q the model's now, x_v = log q_v - log p_v,

    KL(p || q) = Σ_v p_v (log p_v - log q_v) = Σ_v (q_v - p_v - p_v x_v)

as both sum to 1. No term of the right form is negative (e^x ≥ 1 + x), and with q_v - p_v taken as p_v (e^x - 1) none
loses its digits where the models are close: equal models give 0 exactly, and nearly equal ones no rounding noise.

Hidden states are kept for both, logits for a tile of positions at a time: no [M, V] tensor exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.learner import Learner
from posttrain.types import Batch, Segment, TokenForest

MEMORY_BYTES = 128 * 2**20  # for the two tiles of logits
PIECE_BYTES = {"cpu": 2**20}  # of a tile taken at a time, so that the passes over it stay in the processor's cache
PIECE_BYTES_ELSEWHERE = 32 * 2**20

Rows = Callable[[slice], Tensor]  # positions -> their logits [r, V]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A model at a time: as it is when asked, or as it is inside of `during`, which `StartingWeights` gives."""

    learner: Learner
    during: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """What is known at each of the M trained tokens of a forest, before the token; on the CPU."""

    forward: Tensor  # [M] float32 nats, KL(start || now)
    reverse: Tensor  # [M] float32 nats, KL(now || start)
    entropy_start: Tensor  # [M] float32 nats
    entropy_now: Tensor  # [M] float32 nats
    changed: Tensor  # [M] bool, another token is the likeliest


@torch.no_grad()
def divergence(
    trees: Sequence[Segment],
    start: Moment,
    now: Moment,
    *,
    max_tokens: int = 1024,
    memory_bytes: int = MEMORY_BYTES,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Divergence:
    """Both models' distributions at the trained tokens of the trees, compared; leaf after leaf, as trees have them.

    `max_tokens` bounds a forward pass. Where one vocabulary is longer than the other (padded, or grown), the
    distributions are those over the tokens that both have; ModelError for a text with another token.
    """
    learners = (start.learner, now.learner)
    training = [module for learner in learners for module in learner.modules() if module.training]
    for learner in learners:
        learner.eval()
    try:
        forest = TokenForest.from_trees(trees)
        sizes = [learner.head.weight.shape[0] for learner in learners]
        if int(forest.tokens.max()) >= min(sizes):
            raise ModelError(
                f"token {int(forest.tokens.max())} is in a text and not in the vocabulary of both models, which have "
                f"{sizes[0]:,} and {sizes[1]:,} tokens: they can be compared only on texts that both can read"
            )
        rows = max(1, memory_bytes // (8 * max(sizes)))
        if not all(learner.fused_head for learner in learners):  # their own heads give all logits of a pass at once
            max_tokens = min(max_tokens, rows)
        found = [
            _compare(part.forest, start, now, rows, min(sizes), autocast)
            for part in Batch(forest=forest, atom=forest.sequence, units={}).cut(max_tokens)
        ]
    finally:
        for module in training:
            module.training = True
    return Divergence(**{f.name: torch.cat([getattr(one, f.name) for one in found]) for f in fields(Divergence)})


def _compare(forest: TokenForest, start: Moment, now: Moment, rows: int, vocabulary: int, autocast: Any) -> Divergence:
    p_logits, q_logits = _ask(start, forest, autocast), _ask(now, forest, autocast)
    pieces: list[Divergence] = []
    for first in range(0, len(forest.targets), rows):
        tile = slice(first, first + rows)
        p, q = (logits(tile)[:, :vocabulary] for logits in (p_logits, q_logits))
        step = max(1, PIECE_BYTES.get(p.device.type, PIECE_BYTES_ELSEWHERE) // (4 * vocabulary))
        pieces += [compare_logits(a, b.to(a.device)) for a, b in zip(p.split(step), q.split(step))]
    return Divergence(**{f.name: torch.cat([getattr(one, f.name) for one in pieces]) for f in fields(Divergence)})


def _ask(moment: Moment, forest: TokenForest, autocast: Callable[[], AbstractContextManager[Any]]) -> Rows:
    """The model's logits at the forest's predictors, computed for some of them at a time."""
    learner = moment.learner
    forest = forest.to(next(learner.parameters()).device)
    if not learner.fused_head:

        def own(rows: slice) -> Tensor:
            with moment.during(), autocast():
                return learner.own_logits(forest, rows)

        return own
    with moment.during(), autocast():
        hidden = learner.states(forest)
        weight, bias = learner.head.weight.detach(), learner.head.bias  # of this moment
        bias = None if bias is None else bias.detach()

    def fused(rows: slice) -> Tensor:
        with autocast():
            return torch.nn.functional.linear(hidden[rows], weight, bias)

    return fused


def compare_logits(p_logits: Tensor, q_logits: Tensor) -> Divergence:
    """The comparison of two tables of logits [r, V], row by row, in float32."""
    lowest = torch.finfo(torch.float32).min  # 0 · log 0 counts as 0
    log_p = p_logits.float().log_softmax(dim=-1).clamp_min_(lowest)
    log_q = q_logits.float().log_softmax(dim=-1).clamp_min_(lowest)
    p, q = log_p.exp(), log_q.exp()
    x = log_q - log_p
    grown = torch.where(x < 1, p * x.clamp_max(1.0).expm1(), q - p)  # q - p with all its digits
    return Divergence(
        forward=(grown - p * x).sum(dim=-1).clamp_min_(0.0).cpu(),
        reverse=(q * x - grown).sum(dim=-1).clamp_min_(0.0).cpu(),
        entropy_start=-(p * log_p).sum(dim=-1).cpu(),
        entropy_now=-(q * log_q).sum(dim=-1).cpu(),
        changed=(p_logits.argmax(dim=-1) != q_logits.argmax(dim=-1)).cpu(),
    )
