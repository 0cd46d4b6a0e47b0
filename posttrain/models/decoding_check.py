"""Which way of decoding a model allows, found by trying."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.decoding import NAME, Decoder
from posttrain.models.decoding_memory import RowMemory
from posttrain.models.decoding_native import compilable
from posttrain.models.decoding_step import fusable
from posttrain.models.forest_attention import attention_of

WAYS = ("native", "fused", "modules")

_found: weakref.WeakKeyDictionary[Any, dict[str, str]] = weakref.WeakKeyDictionary()  # per model: what was wrong


@torch.no_grad()
def choose_decoding(model: Any) -> tuple[str | None, str]:
    """The first of WAYS that gives the model's own logits, or None; and what was wrong with those before it.

    The model must be in eval mode. A way is tried once per model; whether "fused" can be used is asked each time, as
    an adapter may have come.
    """
    known = _found.setdefault(model, {})
    wrong = []
    for way in WAYS:
        if (way == "native" and not compilable(model)) or (way == "fused" and not fusable(model)):
            continue
        if way not in known:
            with torch.autocast(model.device.type, enabled=False):  # the model's own precision, to the last digit
                known[way] = _fault(model, way)
        if not known[way]:
            return way, ""
        wrong.append(f"{way}: {known[way]}")
    return None, "; ".join(wrong)


def _fault(model: Any, way: str) -> str:
    """How the way's logits differ from those of rows computed one by one; empty if they do not."""
    prompts, continuations = _probe(model)
    try:
        found = _decoded(model, way, prompts, continuations)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError, ModelError) as problem:
        return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    device = model.get_input_embeddings().weight.device
    worst, scale = 0.0, 1.0
    for row, (number, tokens) in enumerate(continuations):
        prompt = prompts[number]
        plain = model(input_ids=torch.tensor([[*prompt, *tokens]], device=device), use_cache=False).logits[0]
        expected = plain[len(prompt) - 1 :].float()
        worst = max(worst, float((found[row].float() - expected).abs().max()))
        scale = max(scale, float(expected.abs().max()))
    allowed = (1e-4 if model.dtype == torch.float32 else 0.05) * scale
    return "" if worst <= allowed else f"logits differ from single rows by {worst:.2g}"


def _probe(model: Any) -> tuple[list[list[int]], list[tuple[int, list[int]]]]:
    """Two prompts, and rows as (prompt, tokens) that continue them past the sliding window if it is short."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    scale = 1 if window is None or window > 64 else max(1, window // 3)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(config.vocab_size, (count,), generator=generator).tolist()

    return [draw(5 * scale), draw(2 * scale)], [(0, draw(3 * scale)), (1, draw(3 * scale)), (0, draw(3 * scale))]


def _decoded(
    model: Any, way: str, prompts: list[list[int]], continuations: list[tuple[int, list[int]]]
) -> list[Tensor]:
    """Per row: logits [1 + tokens, V] after the prompt and after each of the row's tokens."""
    with attention_of(model, NAME):
        decoder = Decoder(model, way)
        remembered = decoder.prefill(prompts)
        steps = len(continuations[0][1])
        memory = RowMemory(
            rows=len(continuations),
            new_tokens=steps,
            longest_prompt=max(map(len, prompts)),
            shared=True,
            like=remembered[0],
        )
        for row, (number, _) in enumerate(continuations):
            memory.put(row, remembered[number])
        logits = [torch.stack([remembered[number].logits for number, _ in continuations])]
        for step in range(steps):
            tokens = torch.tensor([tokens[step] for _, tokens in continuations], device=logits[0].device)
            logits.append(decoder.step(tokens, memory).clone())
    return list(torch.stack(logits, dim=1))
