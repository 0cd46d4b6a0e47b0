"""The slow, general way to sample: padded batches through transformers' `generate`, with our own draws.

For models whose attention cannot be replaced. Rows that are over wait for the longest of their batch.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from posttrain.sampling.drawing import draw
from posttrain.sampling.ends import Ends
from posttrain.sampling.queue import Wanted
from posttrain.sampling.randomness import streams, uniforms
from posttrain.sampling.writing import Written, require_numbers
from posttrain.types import SamplingParams

_paddable: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def padded_steps(
    wanted: Sequence[Wanted],
    model: Any,
    params: SamplingParams,
    *,
    ends: Ends,
    seed: int,
    max_rows: int,
) -> Iterator[list[Written]]:
    """The completions of each batch; only prompts of one length share a batch where the model minds padding."""
    longest_first = sorted(wanted, key=lambda w: -len(w.prompt))
    pads = padding_is_harmless(model)
    start = 0
    while start < len(longest_first):
        length = len(longest_first[start].prompt)
        stop = start + 1
        while stop < min(len(longest_first), start + max_rows) and (pads or len(longest_first[stop].prompt) == length):
            stop += 1
        yield _batch(longest_first[start:stop], model, params, ends, seed)
        start = stop


class _Draws(LogitsProcessor):
    """Draws as everywhere else, and leaves `generate` no other choice."""

    def __init__(self, batch: Sequence[Wanted], width: int, params: SamplingParams, seed: int) -> None:
        self._params = params
        self._width = width
        self._starts = [width - len(w.prompt) for w in batch]
        self._streams = streams(seed, [w.key for w in batch], [w.number for w in batch])
        self.logprobs: list[np.ndarray] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        positions = np.full(len(self._streams), input_ids.shape[1] - self._width)
        randoms = torch.from_numpy(uniforms(self._streams, positions))
        history = None
        if self._params.repetition_penalty != 1:
            history = input_ids.clone()
            for row, start in enumerate(self._starts):
                history[row, :start] = input_ids[row, start]
        tokens, logprobs = draw(scores, self._params, randoms, history)
        self.logprobs.append(logprobs.cpu().numpy())
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _Stops(StoppingCriteria):
    """Ends rows at a stop text, and keeps after how many tokens."""

    def __init__(self, rows: int, width: int, ends: Ends) -> None:
        self.at: dict[int, int] = {}
        self._rows, self._width, self._ends = rows, width, ends

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        written = input_ids[:, self._width :].tolist()
        for row in range(self._rows):
            if row not in self.at and self._ends.at_text(written[row]):
                self.at[row] = len(written[row])
        return torch.tensor([row in self.at for row in range(self._rows)], device=input_ids.device)


def _batch(batch: Sequence[Wanted], model: Any, params: SamplingParams, ends: Ends, seed: int) -> list[Written]:
    ids, mask = _left_padded([w.prompt for w in batch], model)
    width = ids.shape[1]
    draws, stopping = _Draws(batch, width, params, seed), _Stops(len(batch), width, ends)
    config = GenerationConfig(
        max_new_tokens=params.max_tokens, do_sample=False, eos_token_id=ends.tokens or None,
        pad_token_id=ends.tokens[0] if ends.tokens else 0, use_cache=True,
    )  # fmt: skip
    with torch.no_grad(), _settings(model, config):
        written = model.generate(
            input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList([draws]),
            stopping_criteria=StoppingCriteriaList([stopping] if params.stop else []),
        )[:, width:].tolist()  # fmt: skip
    logprobs = np.stack(draws.logprobs, axis=1)
    found = []
    for row, (w, tokens) in enumerate(zip(batch, written)):
        end = next((place + 1 for place, token in enumerate(tokens) if token in ends.tokens), None)
        size = min(end or len(tokens), stopping.at.get(row, len(tokens)))
        require_numbers(logprobs[row, :size])
        reason = "stop" if end == size or row in stopping.at else "length"
        found.append(
            Written(
                place=w.place, tokens=tuple(tokens[:size]), logprobs=tuple(logprobs[row, :size].tolist()),
                finish_reason=reason,
            )
        )  # fmt: skip
    return found


def _left_padded(prompts: Sequence[Sequence[int]], model: Any) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


@contextlib.contextmanager
def _settings(model: Any, config: GenerationConfig) -> Iterator[None]:
    """These generation settings alone: transformers fills what they leave open from the model's own."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


@torch.no_grad()
def padding_is_harmless(model: Any) -> bool:
    """Whether a short prompt padded beside a longer one gets the logits it gets alone; tried once per model."""
    if model not in _paddable:
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.config.get_text_config().vocab_size
        prompts = [torch.randint(vocabulary, (size,), generator=generator).tolist() for size in (12, 5)]
        with torch.autocast(model.device.type, enabled=False):
            together = _first_logits(model, prompts)
            alone = torch.cat([_first_logits(model, [prompt]) for prompt in prompts])
        allowed = (1e-4 if model.dtype == torch.float32 else 0.05) * max(1.0, float(alone.abs().max()))
        _paddable[model] = bool((together - alone).abs().max() <= allowed)
    return _paddable[model]


class _Watch(LogitsProcessor):
    """Keeps the first logits that it sees."""

    seen: Tensor | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.seen = scores.float() if self.seen is None else self.seen
        return scores


def _first_logits(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    ids, mask = _left_padded(prompts, model)
    config = GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=0, use_cache=True)
    watch = _Watch()
    with _settings(model, config):
        model.generate(input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList([watch]))
    assert watch.seen is not None
    return watch.seen
