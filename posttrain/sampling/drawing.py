"""Drawing the next token of many rows from their logits.

A token is the first whose cumulative probability exceeds `u` in [0, 1): the inverse of the distribution function, found
at two levels, over sums of blocks and then inside one block, so that a large vocabulary costs one pass of softmax and
one of sums. What restricts the draw (top-k, top-p, min-p) is a least probability below which nothing is drawn; tokens
exactly as likely as the last one allowed are allowed too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posttrain.types import SamplingParams

BLOCK = 128  # tokens of one block
PASS_BYTES = 4 * 2**20  # logits taken at a time on a CPU, so that they stay in its cache
_NUCLEUS = 512  # the likeliest tokens among which top-p is sought first


def draw(
    logits: Tensor,  # [n, V]
    params: SamplingParams,
    uniforms: Tensor | None = None,  # [n] float64 in [0, 1), on the CPU; greedy needs none
    history: Tensor | None = None,  # [n, L] int64 tokens so far, repeated to fill; only a repetition penalty needs it
) -> tuple[Tensor, Tensor]:
    """Tokens [n] int64 and their log-probabilities [n] float32.

    The latter under softmax(logits / temperature), greedy under softmax(logits), over the whole vocabulary and without
    the penalty. The penalty divides positive logits of tokens seen before, and multiplies negative ones
    (arXiv:1909.05858, as transformers has it), before the temperature.
    """
    rows = logits.shape[0]
    step = max(1, PASS_BYTES // (4 * logits.shape[1])) if logits.device.type == "cpu" else max(1, rows)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    for first in range(0, rows, step):
        part = slice(first, min(first + step, rows))
        tokens[part], logprobs[part] = _draw_part(
            logits[part].float(),
            params,
            None if uniforms is None else uniforms[part],
            None if history is None else history[part],
        )
    return tokens, logprobs


def _draw_part(
    logits: Tensor, params: SamplingParams, uniforms: Tensor | None, history: Tensor | None
) -> tuple[Tensor, Tensor]:
    if params.temperature not in (0, 1):
        logits = logits / params.temperature
    penalised = logits if history is None else _penalised(logits, history, params.repetition_penalty)
    probabilities = penalised.softmax(dim=1)
    if params.temperature == 0:
        tokens = likeliest(penalised)
    else:
        assert uniforms is not None, "only greedy needs no random numbers"
        least = _least(probabilities, params)
        if least is not None:
            probabilities.masked_fill_(probabilities < least[:, None], 0.0)
        tokens = inverse(probabilities, uniforms)
    if penalised is logits:
        return tokens, probabilities.gather(1, tokens[:, None])[:, 0].log()
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1)


def likeliest(logits: Tensor) -> Tensor:
    """The place [n] of each row's largest value: argmax, by way of the largest of each block, which is quicker."""
    largest = _by_block(logits, torch.amax)
    block = largest.argmax(dim=1, keepdim=True)
    places = (block * BLOCK + torch.arange(BLOCK, device=logits.device)).clamp(max=logits.shape[1] - 1)
    return places.gather(1, logits.gather(1, places).argmax(dim=1, keepdim=True))[:, 0]


def _by_block(values: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Each row's blocks reduced to a value each, a shorter last one included. [n, blocks]"""
    whole = values.shape[1] // BLOCK * BLOCK
    reduced = reduce(values[:, :whole].unflatten(1, (-1, BLOCK)), dim=2)
    if whole == values.shape[1]:
        return reduced
    return torch.cat([reduced, reduce(values[:, whole:], dim=1, keepdim=True)], dim=1)


def inverse(weights: Tensor, uniforms: Tensor) -> Tensor:
    """For each row the first place whose cumulative weight exceeds `uniform` times the row's sum. [n]

    `weights` [n, V] are at least 0 and not all 0; a place of weight 0 is never returned.
    """
    size = weights.shape[1]
    sums = _by_block(weights, torch.sum)
    cumulative = _wide(sums).cumsum(dim=1)
    target = uniforms.to(cumulative.device) * cumulative[:, -1]
    block = _first_above(cumulative, target)
    before = cumulative.gather(1, (block - 1).clamp(min=0)) * (block > 0)
    places = block.to(weights.device) * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = _wide(weights.gather(1, places.clamp(max=size - 1)).masked_fill_(places >= size, 0.0))
    # the float32 sum of a block is not quite the sum of its parts: what falls behind its end is its last token's
    found = _first_above(inside.cumsum(dim=1), target - before[:, 0])
    return (block * BLOCK + found)[:, 0].to(weights.device)


def _wide(values: Tensor) -> Tensor:
    """In float64, which Apple's GPUs do not have: their values come to the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first place [n, 1] of each row where the cumulative sum exceeds the target, kept below the row's end."""
    below_end = torch.nextafter(cumulative[:, -1], torch.zeros_like(target))
    places = torch.searchsorted(cumulative, torch.minimum(target, below_end)[:, None], right=True)
    return places.clamp(max=cumulative.shape[1] - 1)  # of sums that are no numbers


def _penalised(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    seen = logits.gather(1, history)
    return logits.scatter(1, history, torch.where(seen < 0, seen * penalty, seen / penalty))


def _least(probabilities: Tensor, params: SamplingParams) -> Tensor | None:
    """The least probability [n] that may be drawn, or None where all may: top-k, of those top-p, of those min-p."""
    size = probabilities.shape[1]
    least = None
    top = None  # the likeliest tokens' probabilities, descending
    if 0 < params.top_k < size:
        top = probabilities.topk(params.top_k, dim=1).values
        least = top[:, -1]
    if params.top_p < 1:
        kept = _nucleus(probabilities, params.top_p) if top is None else _smallest_kept(top, params.top_p)
        least = kept if least is None else torch.maximum(least, kept)
    if params.min_p > 0:
        relative = params.min_p * probabilities.amax(dim=1)
        least = relative if least is None else torch.maximum(least, relative)
    return least


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The smallest probability [n] among the fewest likeliest tokens that hold `top_p` of the whole."""
    size = probabilities.shape[1]
    top = probabilities.topk(min(_NUCLEUS, size), dim=1).values
    if top.shape[1] < size and bool((top.sum(dim=1) < top_p).any()):
        top = probabilities.sort(dim=1, descending=True).values
    return _smallest_kept(top, top_p, whole=1.0)


def _smallest_kept(top: Tensor, top_p: float, whole: float | None = None) -> Tensor:
    """The last of descending probabilities [n, k] that is needed to reach `top_p` of their sum, or of `whole`."""
    wide = _wide(top)
    cumulative = wide.cumsum(dim=1)
    total = cumulative[:, -1:] if whole is None else whole
    before = cumulative - wide
    count = (before < top_p * total).sum(dim=1, keepdim=True).clamp(min=1)
    return top.gather(1, count.to(top.device) - 1)[:, 0]
