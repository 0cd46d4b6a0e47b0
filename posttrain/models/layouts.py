"""How a forest is laid out for a model: as it is, with prompts repeated, or as padded rows.

`forest` needs attention that transformers lets us replace. `unshared` repeats the ancestors for each leaf, for models
that compute a prompt differently with several continuations. `padded` is one row per leaf with the model's own
attention, for everything else (linear attention, state space, positions that depend on the batch). `choose_layout`
tries them in this order against rows computed one by one and takes the first that agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.forest_attention import NAME, attention_of, forest_inputs
from posttrain.types import Segment, TokenForest


@dataclass(frozen=True, kw_only=True)
class Laid:
    """A forest ready for the model. Places are indices into the output flattened to [rows * columns, H]."""

    inputs: dict[str, Any]
    predictors: Tensor  # [M] where the trained tokens' predictors came to lie
    ends: Tensor  # [Q] where the leaves' last tokens came to lie
    tokens: int  # computed, padding and repeated prompts included


def lay_forest(forest: TokenForest) -> Laid:
    """The forest as one flat row."""
    return Laid(inputs=forest_inputs(forest), predictors=forest.predictors, ends=forest.ends, tokens=len(forest.tokens))


def _rows(forest: TokenForest) -> list[Tensor]:
    """Every leaf's path from the root as token indices into the flat row; a forest without leaves is one row."""
    offsets, device = forest.offsets, forest.tokens.device
    pieces = [torch.arange(o, o + n, device=device) for o, n in zip(offsets, forest.lengths)]
    if not forest.leaves:
        return [pieces[0]]
    return [torch.cat([pieces[s] for s in forest.path(leaf)]) for leaf in forest.leaves]


def lay_unshared(forest: TokenForest) -> Laid:
    """One flat row in which every leaf is a root with its ancestors' tokens before it."""
    rows = _rows(forest)
    lengths = [len(row) for row in rows]
    starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths))], device=forest.tokens.device)
    order = torch.cat(rows)
    flat = TokenForest(
        tokens=forest.tokens[order],
        positions=forest.positions[order],
        lengths=tuple(lengths),
        parents=(-1,) * len(lengths),
        leaves=tuple(range(len(forest.leaves))),
        trained=forest.trained,
        predictors=starts[forest.sequence] + forest.positions[forest.predictors],
        targets=forest.targets,
        sequence=forest.sequence,
        ends=starts[: len(forest.ends)] + forest.positions[forest.ends],
    )
    return lay_forest(flat)


def lay_padded(forest: TokenForest) -> Laid:
    """One row per leaf, padded on the right; the pad token's value is never read."""
    rows = _rows(forest)
    longest = max(len(row) for row in rows)
    device = forest.tokens.device
    ids = torch.zeros(len(rows), longest, dtype=torch.int64, device=device)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64, device=device)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = forest.tokens[row]
        mask[i, : len(row)] = 1
    starts = torch.arange(len(rows), device=device) * longest
    return Laid(
        inputs={"input_ids": ids, "attention_mask": mask, "use_cache": False},
        predictors=starts[forest.sequence] + forest.positions[forest.predictors],
        ends=starts[: len(forest.ends)] + forest.positions[forest.ends],
        tokens=ids.numel(),
    )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to lay forests out, and the attention it needs (None: the model's own)."""

    name: str
    lay: Callable[[TokenForest], Laid]
    attention: str | None


LAYOUTS = {
    "forest": Layout(name="forest", lay=lay_forest, attention=NAME),
    "unshared": Layout(name="unshared", lay=lay_unshared, attention=NAME),
    "padded": Layout(name="padded", lay=lay_padded, attention=None),
}


def probe(vocabulary: int, window: int | None = None) -> list[Segment]:
    """Small trees that show whether a layout is right: a prompt with two children, one with a grandchild, a root.

    The rows are longer than the sliding window where it is small enough to try.
    """
    generator = torch.Generator().manual_seed(0)
    scale = 1 if window is None or window > 64 else max(1, window // 3)

    def tokens(count: int) -> list[int]:
        return torch.randint(vocabulary, (count * scale,), generator=generator).tolist()

    def leaf(count: int, first: int = 0) -> Segment:
        return Segment(tokens=(t := tokens(count)), trained=[(first, len(t))])

    deep = Segment(tokens=tokens(3), children=[leaf(2), leaf(4)])
    return [Segment(tokens=tokens(5), children=[leaf(4), leaf(3), deep]), leaf(6, first=2)]


def row_logits(model: Any, forest: TokenForest) -> Tensor:
    """Logits [M, V] at the predictors from the model's plain forward, a leaf at a time: the slow, sure way.

    Without a head over the vocabulary (a classifier, a bare decoder) they are hidden states [M, H].
    """
    found = []
    for q, row in enumerate(_rows(forest)):
        numbers = _at_each_token(model, input_ids=forest.tokens[row][None], use_cache=False)[0]
        found.append(numbers[forest.positions[forest.predictors[forest.sequence == q]]])
    return torch.cat(found)


def laid_logits(model: Any, layout: Layout, forest: TokenForest) -> Tensor:
    """What `row_logits` gives, computed under the layout."""
    with attention_of(model, layout.attention) if layout.attention else nullcontext():
        laid = layout.lay(forest)
        numbers = _at_each_token(model, **laid.inputs)
    return numbers.reshape(-1, numbers.shape[-1])[laid.predictors]


def _at_each_token(model: Any, **inputs: Any) -> Tensor:
    """[rows, columns, V] logits through the model's own head; [rows, columns, H] where it has none."""
    if model.get_output_embeddings() is None:
        return model.get_decoder()(**inputs).last_hidden_state
    return model(**inputs).logits


@torch.no_grad()
def choose_layout(model: Any) -> tuple[Layout, str]:
    """The first layout that agrees with rows computed one by one, and a sentence for the user if it is not the first.

    Raises ModelError if none does: such a model mixes up the rows of a batch.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    forest = TokenForest.from_trees(probe(config.vocab_size, window)).to(device)
    expected = row_logits(model, forest).float()
    tolerance = 1e-4 if expected.dtype == torch.float32 and model.dtype == torch.float32 else 0.05
    tolerance *= max(1.0, float(expected.abs().max()))
    refused = []
    try:
        for layout in LAYOUTS.values():
            try:
                error = float((laid_logits(model, layout, forest).float() - expected).abs().max())
            except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError) as problem:
                refused.append(f"{layout.name}: {type(problem).__name__}: {str(problem).splitlines()[0]}")
                continue
            if error <= tolerance:
                return layout, "; ".join(refused)
            refused.append(f"{layout.name}: results differ from single rows by {error:.2g}")
    finally:
        model.train(was_training)
    raise ModelError(
        f"{type(model).__name__} gives other results in a batch than row by row ({'; '.join(refused)}), "
        "so it cannot be trained reliably. Use a model without batch-dependent computation."
    )
