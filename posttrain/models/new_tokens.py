"""Tokens that a tokenizer is given before training: rows for them in the embedding and the head, and which to train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AddedToken, PreTrainedTokenizerBase

from posttrain.errors import ConfigError, ModelError
from posttrain.models.locating import read_json

FRESH = "fresh_token_ids"  # an attribute of a tokenizer: what was added for the run that is being made


def add_tokens(
    tokenizer: PreTrainedTokenizerBase, *, plain: Sequence[str] | None, special: Sequence[str] | None
) -> None:
    """Gives the tokenizer those of the tokens that it lacks; it remembers which of them are fresh.

    Special tokens are left out of decoded text where that leaves out special tokens. Raises ConfigError for a token
    that is empty, or both.
    """
    wanted = [*(plain or ()), *(special or ())]
    for name in sorted({name for name in wanted if not name.strip() or wanted.count(name) > 1}):
        raise ConfigError(f"add_tokens, add_special_tokens: {name!r} is empty or named twice")
    known = tokenizer.get_vocab()
    fresh = [name for name in wanted if name not in known]
    marked = set(special or ())
    if fresh:
        tokenizer.add_tokens([_token(name, special=name in marked) for name in fresh])
    if again := [name for name in marked if name in known and known[name] not in tokenizer.all_special_ids]:
        tokenizer.add_tokens([_token(name, special=True) for name in again])
    vocabulary = tokenizer.get_vocab()
    setattr(tokenizer, FRESH, sorted(vocabulary[name] for name in fresh))


def _token(name: str, *, special: bool) -> AddedToken:
    return AddedToken(name, special=special, normalized=False, lstrip=False, rstrip=False)


def ids_of(tokenizer: PreTrainedTokenizerBase, *lists: Sequence[str] | None) -> list[int]:
    """The ids of the tokens that the lists name."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[name] for names in lists for name in names or ())


def make_rows_for(
    model: Any, tokenizer: PreTrainedTokenizerBase, named: Sequence[int], *, fresh: bool = True
) -> list[str]:
    """`make_rows` for what `add_tokens` added last, and for those of the `named` ids that the model has no row for.

    Without `fresh` for the latter only. Raises ModelError for a model that has an adapter already.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    added = getattr(tokenizer, FRESH, []) if fresh else []
    wanted = sorted({*added, *(token for token in named if token >= rows)})
    if wanted and isinstance(model, PeftModel):
        raise ModelError(
            "add_tokens, add_special_tokens: the model has an adapter, beside which no rows can be added. Merge it"
            " first: model = model.merge_and_unload()."
        )
    return make_rows(model, wanted)


def row_owners(model: Any) -> list[nn.Module]:
    """The modules that hold a row for each token: the embedding, and the head where it has weights of its own."""
    embedding, head = model.get_input_embeddings(), output_of(model)
    return [embedding] if head is None or head.weight is embedding.weight else [embedding, head]


def make_rows(model: Any, ids: Sequence[int]) -> list[str]:
    """What was done, a sentence, so that the model has a row of its own for each of these new tokens.

    The embedding and the head grow where the ids lie beyond them. Each new row is the mean of the rows before, so that
    the model's predictions hardly change (J. Hewitt, Initializing New Word Embeddings for Pretrained Language Models,
    2021; without its noise, so that it is the same wherever it is made). Of spare rows those of the new tokens are set.
    """
    if not ids:
        return []
    before = int(model.get_input_embeddings().weight.shape[0])
    known = [row for row in range(min(ids)) if row < before]
    size = max(before, max(ids) + 1)
    if size > before:
        with torch.random.fork_rng(devices=[]):  # transformers draws the rows that are overwritten here
            model.resize_token_embeddings(size, mean_resizing=False)
    rows = sorted({*ids, *range(before, size)})
    with torch.no_grad():
        for module in row_owners(model):
            weight: Any = module.weight
            weight[rows] = weight[: len(known)].float().mean(dim=0).to(weight.dtype)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias[rows] = module.bias[: len(known)].float().mean().to(module.bias.dtype)
    grown = f"; the model has {size:,} now" if size > before else ""
    return [f"new tokens: {len(ids)}, whose rows start as the mean of the {len(known):,} rows before them{grown}"]


def output_of(model: Any) -> Any:
    """The head that predicts tokens, or None for a model that gives scores."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def rows_for_adapter(model: Any, directory: Path) -> None:
    """Makes the rows of the tokens that the adapter in the directory was trained with, if the base lacks them."""
    asked = read_json(directory / "adapter_config.json").get("trainable_token_indices") or []
    lists = asked.values() if isinstance(asked, dict) else [asked]
    wanted = max((index for indices in lists for index in indices), default=-1) + 1
    rows = int(model.get_input_embeddings().weight.shape[0])
    file = directory / "adapter_model.safetensors"
    if file.is_file():
        names = [path for path, part in model.named_modules() if part is model.get_input_embeddings()]
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118 it is no mapping
                if any(key.endswith(f"{name}.weight") for name in names):
                    wanted = max(wanted, weights.get_slice(key).get_shape()[0])
    if wanted > rows:
        make_rows(model, range(rows, wanted))
