"""Decoding: prompts computed once, then rows that continue them a token at a time.

No cache class of transformers takes part: the model computes flat rows without padding, and an attention function
registered with transformers keeps the keys and values itself (`posttrain/models/decoding_memory.py`). A step goes
through the model's own modules ("modules"), or through a loop over its weights ("fused") where `decoding_step.py` knows
the architecture, most of it compiled ("native") where `decoding_native.py` can.
`posttrain/models/decoding_check.py` tries them against the model's plain forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from posttrain.errors import ModelError
from posttrain.models.decoding_memory import How, RowMemory
from posttrain.models.decoding_native import NativeStep
from posttrain.models.decoding_prompts import PromptMemory
from posttrain.models.decoding_step import FusedStep
from posttrain.models.forest_attention import ForestPlan, forest_attention
from posttrain.types import TokenForest

NAME = "posttrain_decoding"


class _Prefill:
    """Attention over prompts side by side, which keeps their keys and values and what the layers ask for."""

    def __init__(self, forest: TokenForest) -> None:
        self._plan = ForestPlan(forest)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.how: dict[int, How] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How, module: nn.Module) -> Tensor:
        self.kept[layer], self.how[layer] = (key, value), how
        return forest_attention(
            module, query, key, value, None, scaling=how.scaling, sliding_window=how.window, forest=self._plan
        )[0]


class _Step:
    """Attention of one new token a row."""

    def __init__(self, memory: RowMemory) -> None:
        self._memory = memory

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How, module: nn.Module) -> Tensor:
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        return self._memory.attend(layer, query, key, value, how)[None]


def decoding_attention(
    module: Any,
    query: Tensor,  # [1, heads, N, head size]
    key: Tensor,  # [1, key-value heads, N, head size]
    value: Tensor,  # like key
    attention_mask: Tensor | None,
    *,
    decoding: _Prefill | _Step | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention output [1, N, heads, head size] as the plan says that travels through the model's forward.

    A call without one, from whoever uses the model while it streams, is ordinary attention.
    """
    if decoding is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **options
        )
    how = How(scaling=query.shape[-1] ** -0.5 if scaling is None else scaling, window=sliding_window)
    return decoding.attend(module.layer_idx, query, key, value, how, module), None


AttentionInterface.register(NAME, decoding_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class Decoder:
    """A model that computes prompts and next tokens. Made anew when weights change: the fused way copies some.

    Must be used with the model in eval mode, under `attention_of(model, NAME)` and without gradients.
    """

    def __init__(self, model: Any, way: str) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._step: FusedStep | NativeStep | None = None
        if way == "native" and not torch.is_autocast_enabled("cpu"):
            self._step = NativeStep(model)
        elif way in ("native", "fused"):
            self._step = FusedStep(model)
        self._how: Mapping[int, How] = {}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[PromptMemory]:
        """The prompts as the model remembers them, computed in one pass."""
        lengths = [len(prompt) for prompt in prompts]
        none = torch.zeros(0, dtype=torch.int64)
        forest = TokenForest(
            tokens=torch.tensor([token for prompt in prompts for token in prompt]),
            positions=torch.cat([torch.arange(length) for length in lengths]),
            lengths=tuple(lengths), parents=(-1,) * len(prompts), leaves=(), trained=(), predictors=none,
            targets=none, sequence=none, ends=torch.tensor(lengths).cumsum(0) - 1,
        ).to(self._device)  # fmt: skip
        plan = _Prefill(forest)
        logits = self._run(forest.tokens, forest.positions, plan, logits_to_keep=forest.ends)
        if sorted(plan.kept) != list(range(len(plan.kept))):
            raise ModelError(f"{type(self._model).__name__} has layers without attention")
        self._how = plan.how
        layers = [plan.kept[layer] for layer in range(len(plan.kept))]
        # Copies, so that a prompt can be forgotten without the others.
        keys, values = (
            [[part.contiguous() for part in pair[side][0].split(lengths, dim=1)] for pair in layers] for side in (0, 1)
        )
        return [
            PromptMemory(tokens=prompt, keys=[k[i] for k in keys], values=[v[i] for v in values], logits=logits[i])
            for i, prompt in enumerate(prompts)
        ]

    def step(self, tokens: Tensor, memory: RowMemory) -> Tensor:
        """Logits [count, V] after these tokens [count], one for each row of the memory, which remembers the tokens.

        The next step may write over them.
        """
        positions = memory.advance()
        if self._step is not None:
            return self._step(tokens, positions, memory, self._how)
        return self._run(tokens, positions, _Step(memory))

    def _run(self, tokens: Tensor, positions: Tensor, plan: _Prefill | _Step, **options: Any) -> Tensor:
        # a mask of four dimensions is taken as it is, so that transformers builds none; the plan stands in for it
        mask = torch.zeros(1, 1, 1, 1, device=self._device)
        return self._model(
            input_ids=tokens[None], position_ids=positions[None], attention_mask=mask, use_cache=False, decoding=plan,
            **options,
        ).logits[0]  # fmt: skip
