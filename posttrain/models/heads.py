"""The language-model head: log-probabilities of chosen tokens, without keeping what is not needed.

`logprob_m = z[m, target_m] - log sum_v exp z[m, v]` with `z = (hidden @ weight.T + bias) / temperature`, in float32
whatever the model's dtype. Three exact ways, chosen by shape alone:

- a frozen head (LoRA): each token's gradient with respect to its hidden state, `W[target] - sum_v p_v W[v]`, is formed
  at once and only scaled in the backward;
- probabilities that fit the byte budget: kept in one buffer, which becomes the logits' gradient in place;
- otherwise tiles over the vocabulary, recomputed in the backward.

The entropy `H = -sum_v p_v log p_v` is differentiable where that is asked for: with `g` and `e` from above for the
log-probability and the entropy, `dL/dz_v = g (1[v = target] - p_v) - e p_v (log p_v + H)`. The vocabulary's mean
log-probability is its mean logit less `log sum_v exp z_v`; with `t` from above for that logarithm, the `g` before `p_v`
becomes `g - t`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

KEEP_BYTES = 256 * 2**20  # probabilities kept for the backward at most; more is recomputed tile by tile
TILE_BYTES = 16 * 2**20  # logits of one tile
CACHE_BYTES = 2**20  # rows that element-wise passes take at a time, so that they stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the head says about the chosen tokens."""

    logprobs: Tensor  # [M] float32, differentiable
    correct: Tensor  # [M] bool, the chosen token had the largest logit
    entropy: Tensor | None  # [M] float32 nats of the whole distribution; where asked for
    mean_logprobs: Tensor | None = None  # [M] float32, mean of log p_v over the vocabulary, differentiable; likewise


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What the ways are asked for beside log-probabilities, and how."""

    entropy: bool
    entropy_grad: bool
    log_total: bool
    temperature: float
    tile_bytes: int


def chosen_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    entropy_grad: bool = False,
    mean_logprobs: bool = False,
    keep_bytes: int = KEEP_BYTES,
    tile_bytes: int = TILE_BYTES,
) -> Chosen:
    """Log-probabilities of `targets` [M] under a head `weight` [V, H] applied to `hidden` [M, H].

    `entropy_grad` gives the entropy too, and a gradient to it; plain `entropy` costs nothing in the backward.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    trained = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    way: type[torch.autograd.Function]
    if not trained:
        way = _FrozenHead
    elif hidden.shape[0] * weight.shape[0] * 4 <= keep_bytes:
        way = _KeptProbabilities
    else:
        way = _VocabularyTiles
    with torch.autocast(hidden.device.type, enabled=False):
        differentiable = entropy_grad and torch.is_grad_enabled()
        wanted = _Wanted(
            entropy=entropy or entropy_grad, entropy_grad=differentiable, log_total=mean_logprobs,
            temperature=temperature, tile_bytes=tile_bytes,
        )  # fmt: skip
        logprobs, correct, nats, log_total = way.apply(hidden, weight, bias, targets, wanted)
        mean = _mean_logit(hidden, weight, bias, temperature) - log_total if mean_logprobs else None
    return Chosen(logprobs=logprobs, correct=correct, entropy=nats, mean_logprobs=mean)


def _mean_logit(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[M] float32: the mean of a row's logits, which one product with the mean of the weight's rows gives."""
    mean = hidden.float() @ weight.mean(dim=0, dtype=torch.float32)
    return (mean if bias is None else mean + bias.mean(dtype=torch.float32)) / temperature


@torch.no_grad()
def log_collision(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    tile_bytes: int = TILE_BYTES,
) -> Tensor:
    """[M] float32: `log sum_v p_v^2`, the chance that two draws give the same token; one product more, no gradient."""
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    found = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows in _row_tiles(hidden.shape[0], weight.shape[0], tile_bytes):
            part = hidden[rows]
            logits = part.new_empty(part.shape[0], weight.shape[0], dtype=torch.float32)
            _logits(part, weight, bias, temperature, out=logits)
            found[rows] = (2 * logits).logsumexp(dim=1) - 2 * logits.logsumexp(dim=1)
    return found


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, *, out: Tensor) -> Tensor:
    """`(hidden @ weight.T + bias) / temperature` in float32, into `out`."""
    if hidden.dtype == torch.float32:
        torch.mm(hidden, weight.t(), out=out)
    else:
        out.copy_(torch.mm(hidden, weight.t()))
    if bias is not None:
        out.add_(bias)
    return out if temperature == 1.0 else out.div_(temperature)


def _row_tiles(rows: int, columns: int, tile_bytes: int) -> list[slice]:
    step = max(16, tile_bytes // (4 * columns))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def _row_pieces(table: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Runs of rows with the number of their first; on a CPU so few that several passes find them in its cache."""
    step = max(1, CACHE_BYTES // (4 * table.shape[1])) if table.device.type == "cpu" else max(1, table.shape[0])
    for start in range(0, table.shape[0], step):
        yield start, table[start : start + step]


def _spread(probabilities: Tensor, grad: Tensor, grad_entropy: Tensor, entropy: Tensor) -> Tensor:
    """In place of the probabilities, `-p (grad + grad_entropy (log p + H))`; a token without mass gets nothing."""
    for start, piece in _row_pieces(probabilities):
        rows = slice(start, start + piece.shape[0])
        factor = piece.clamp_min(torch.finfo(torch.float32).tiny).log_().add_(entropy[rows, None])
        piece.mul_(factor.mul_(grad_entropy[rows, None]).add_(grad[rows, None]).neg_())
    return probabilities


_Results = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # log-probability, correct, entropy, log of the sum


class _Softmax:
    """Row statistics of logits that are exponentiated in place: after `take`, the buffer holds exp(z - max z)."""

    def __init__(self, targets: Tensor, want_entropy: bool) -> None:
        self.targets = targets
        rows, device = targets.shape[0], targets.device
        self.totals = torch.empty(rows, dtype=torch.float32, device=device)  # sum of exp(z - max)
        self.largest = torch.empty(rows, dtype=torch.float32, device=device)
        self.logprobs = torch.empty(rows, dtype=torch.float32, device=device)
        self.correct = torch.empty(rows, dtype=torch.bool, device=device)
        self.entropy = torch.empty(rows, dtype=torch.float32, device=device) if want_entropy else None

    def take(self, logits: Tensor, rows: slice) -> None:
        """Read the logits of these rows and leave exp(z - max z) in their place."""
        for start, part in _row_pieces(logits):
            place = slice(rows.start + start, rows.start + start + part.shape[0])
            largest = part.amax(dim=1)
            part.sub_(largest[:, None])
            chosen = part.gather(1, self.targets[place, None])[:, 0]
            shifted = part.clone() if self.entropy is not None else None
            part.exp_()
            total = part.sum(dim=1)
            self.totals[place], self.largest[place] = total, largest
            self.logprobs[place] = chosen - total.log()
            self.correct[place] = chosen >= 0
            if self.entropy is not None and shifted is not None:
                # H = log T - sum e^z z / T; 0 * -inf, a token with no mass at all, counts as 0
                self.entropy[place] = total.log() - shifted.mul_(part).nan_to_num_(0.0).sum(dim=1) / total

    def results(self, ctx: Any, wanted: _Wanted) -> _Results:
        _mark(ctx, wanted, self.correct, self.entropy)
        return self.logprobs, self.correct, self.entropy, self.largest + self.totals.log() if wanted.log_total else None


def _mark(ctx: Any, wanted: _Wanted, correct: Tensor, entropy: Tensor | None) -> None:
    constant = [correct] if wanted.entropy_grad or entropy is None else [correct, entropy]
    ctx.mark_non_differentiable(*constant)


class _FrozenHead(torch.autograd.Function):
    """The weight gets no gradient, so a token's own gradient is known in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, wanted: _Wanted
    ) -> _Results:
        softmax = _Softmax(targets, wanted.entropy)
        needed = ctx.needs_input_grad[0]
        gradient = weight[targets].float() if needed else None
        of_entropy = torch.empty_like(gradient) if gradient is not None and wanted.entropy_grad else None
        tiles = _row_tiles(hidden.shape[0], weight.shape[0], wanted.tile_bytes)
        buffer = hidden.new_empty(tiles[0].stop if tiles else 0, weight.shape[0], dtype=torch.float32)
        for rows in tiles:
            logits = _logits(hidden[rows], weight, bias, wanted.temperature, out=buffer[: rows.stop - rows.start])
            softmax.take(logits, rows)
            total = softmax.totals[rows]
            if gradient is not None:
                expected = torch.mm(logits.to(weight.dtype), weight).float()
                gradient[rows] -= expected / total[:, None]
            if of_entropy is not None and softmax.entropy is not None:
                _spread(
                    logits.div_(total[:, None]), torch.zeros_like(total), torch.ones_like(total), softmax.entropy[rows]
                )
                of_entropy[rows] = torch.mm(logits.to(weight.dtype), weight).float()
        ctx.save_for_backward(gradient, of_entropy, *((weight, targets) if wanted.log_total else ()))
        ctx.dtype, ctx.temperature = hidden.dtype, wanted.temperature
        return softmax.results(ctx, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any, grad_entropy: Tensor | None, grad_total: Tensor | None) -> Any:
        gradient, of_entropy, *head = ctx.saved_tensors
        total = gradient * (grad / ctx.temperature)[:, None]
        if grad_total is not None:
            weight, targets = head
            total += (weight[targets].float() - gradient) * (grad_total / ctx.temperature)[:, None]
        if of_entropy is not None and grad_entropy is not None:
            total += of_entropy * (grad_entropy / ctx.temperature)[:, None]
        return total.to(ctx.dtype), None, None, None, None


class _KeptProbabilities(torch.autograd.Function):
    """One buffer [M, V]: logits, then unnormalised probabilities, then the logits' gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, wanted: _Wanted
    ) -> _Results:
        softmax = _Softmax(targets, wanted.entropy)
        buffer = hidden.new_empty(hidden.shape[0], weight.shape[0], dtype=torch.float32)
        for rows in _row_tiles(hidden.shape[0], weight.shape[0], wanted.tile_bytes):
            _logits(hidden[rows], weight, bias, wanted.temperature, out=buffer[rows])
            softmax.take(buffer[rows], rows)
        ctx.save_for_backward(hidden, weight, bias, targets, softmax.entropy if wanted.entropy_grad else None)
        ctx.buffer, ctx.totals, ctx.temperature = buffer, softmax.totals, wanted.temperature
        return softmax.results(ctx, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any, grad_entropy: Tensor | None, grad_total: Tensor | None) -> Any:
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        if ctx.buffer is None:
            raise RuntimeError("backward through the head a second time: its buffer was used up by the first")
        buffer, ctx.buffer = ctx.buffer, None
        grad = grad / ctx.temperature
        masses = grad if grad_total is None else grad - grad_total / ctx.temperature  # what stands before p_v, negated
        if entropy is None or grad_entropy is None:
            buffer.mul_((-masses / ctx.totals)[:, None])
        else:
            _spread(buffer.div_(ctx.totals[:, None]), masses, grad_entropy / ctx.temperature, entropy)
        buffer[torch.arange(targets.shape[0], device=targets.device), targets] += grad
        return *_product_gradients(ctx, buffer, hidden, weight, bias), None, None


def _product_gradients(
    ctx: FunctionCtx, grad_logits: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
    grad = grad_logits.to(weight.dtype)
    return (
        grad @ weight if needs_hidden else None,
        grad.t() @ hidden if needs_weight else None,
        grad_logits.sum(dim=0).to(bias.dtype) if needs_bias and bias is not None else None,
    )


class _VocabularyTiles(torch.autograd.Function):
    """Logits of a slice of the vocabulary at a time, computed again in the backward: four products instead of three."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, wanted: _Wanted
    ) -> _Results:
        rows = hidden.shape[0]
        largest = hidden.new_full((rows,), -torch.inf, dtype=torch.float32)
        total = torch.zeros_like(largest)  # sum of exp(z - largest)
        moment = torch.zeros_like(largest)  # sum of exp(z - largest) z
        chosen = torch.zeros_like(largest)
        tiles = _column_tiles(rows, weight.shape[0], wanted.tile_bytes)
        buffer = hidden.new_empty(rows * tiles[0].stop, dtype=torch.float32)
        for tile in tiles:
            logits = buffer[: rows * (tile.stop - tile.start)].view(rows, -1)
            _logits(hidden, weight[tile], None if bias is None else bias[tile], wanted.temperature, out=logits)
            inside = (targets >= tile.start) & (targets < tile.stop)
            here = (targets - tile.start).clamp(0, logits.shape[1] - 1)
            chosen = torch.where(inside, logits.gather(1, here[:, None])[:, 0], chosen)
            grown = torch.maximum(largest, logits.amax(dim=1))
            scale = (largest - grown).exp()
            if wanted.entropy:
                masses = (logits - grown[:, None]).exp_()
                moment = moment * scale + masses.mul_(logits).nan_to_num_(0.0).sum(dim=1)
            total = total * scale + logits.sub_(grown[:, None]).exp_().sum(dim=1)
            largest = grown
        log_total = largest + total.log()
        correct = chosen >= largest
        nats = log_total - moment / total if wanted.entropy else None
        _mark(ctx, wanted, correct, nats)
        ctx.save_for_backward(hidden, weight, bias, targets, log_total, nats if wanted.entropy_grad else None)
        ctx.wanted = wanted
        return chosen - log_total, correct, nats, log_total.clone() if wanted.log_total else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any, grad_entropy: Tensor | None, grad_total: Tensor | None) -> Any:
        hidden, weight, bias, targets, log_total, entropy = ctx.saved_tensors
        temperature = ctx.wanted.temperature
        grad = grad / temperature
        masses = grad if grad_total is None else grad - grad_total / temperature  # what stands before p_v, negated
        rows = hidden.shape[0]
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        tiles = _column_tiles(rows, weight.shape[0], ctx.wanted.tile_bytes)
        buffer = hidden.new_empty(rows * tiles[0].stop, dtype=torch.float32)
        row = torch.arange(rows, device=targets.device)
        for tile in tiles:
            logits = buffer[: rows * (tile.stop - tile.start)].view(rows, -1)
            _logits(hidden, weight[tile], None if bias is None else bias[tile], temperature, out=logits)
            logits.sub_(log_total[:, None]).exp_()
            if entropy is None or grad_entropy is None:
                logits.mul_(-masses[:, None])
            else:
                _spread(logits, masses, grad_entropy / temperature, entropy)
            inside = (targets >= tile.start) & (targets < tile.stop)
            logits[row[inside], targets[inside] - tile.start] += grad[inside]
            part = logits.to(weight.dtype)
            if hidden.dtype == torch.float32:
                grad_hidden.addmm_(part, weight[tile])
            else:
                grad_hidden += part @ weight[tile]
            if grad_weight is not None:
                torch.mm(part.t(), hidden, out=grad_weight[tile])
            if grad_bias is not None:
                grad_bias[tile] = logits.sum(dim=0)
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None


def _column_tiles(rows: int, columns: int, tile_bytes: int) -> list[slice]:
    step = max(256, tile_bytes // (4 * max(rows, 1)))
    return [slice(i, min(i + step, columns)) for i in range(0, columns, step)]
