"""An adapter added into its model's weights, after a check that nothing changes by it; written as a model directory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from posttrain.errors import ModelError
from posttrain.models.adapter_start import save_ordinary, start_of
from posttrain.models.lora import active_adapter, embedding_rows

ADAPTER_FOLDER = "adapter"


def merge_and_save(model: PeftModel, directory: str | Path) -> None:
    """Writes the merged model as an ordinary model directory, and the adapter alone into its folder `adapter/`.

    The live model is not touched. Before anything is written, the merged model's log-probabilities are compared
    with the adapted ones'; ModelError where they differ by more than rounding.
    """
    merged = merged_copy(model)
    check_merged(model, merged)
    directory = Path(directory)
    merged.save_pretrained(directory)
    export_adapter(model, directory / ADAPTER_FOLDER)


def export_adapter(model: PeftModel, directory: Path) -> None:
    """Writes the adapters as peft's `PeftModel.from_pretrained` reads them onto the model they were put onto."""
    if start_of(model):
        save_ordinary(model, active_adapter(model), directory)
    else:
        model.save_pretrained(str(directory), save_embedding_layers=False)


def merged_copy(model: PeftModel) -> PreTrainedModel:
    """A model with the adapter added into its weights; it shares every other weight with the live one."""
    shadow = _shadow(model)
    _untie(shadow)
    try:
        # Safe merging puts new tensors in the place of the shared ones instead of adding into them.
        merged: PreTrainedModel = shadow.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"the adapter cannot be merged: {error}") from error
    _say_whether_tied(merged)
    return merged


@torch.no_grad()
def check_merged(model: PeftModel, merged: PreTrainedModel, *, tokens: int = 16) -> float:
    """The largest difference of a log-probability between the adapted and the merged model on a few random tokens.

    Of a score, where the model gives one. Raises ModelError where it is beyond rounding: 1e-3 in float32, a mean of 0.1
    in shorter formats. Tokens whose rows were trained are among them.
    """
    adapted = _shadow(model).eval()
    vocabulary = embedding_rows(merged)
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(vocabulary, (1, tokens), generator=generator).to(merged.device)
    own = _trained_tokens(model)[: tokens // 2]
    row[0, : len(own)] = torch.tensor(own, dtype=row.dtype)
    before, after = (part.eval()(input_ids=row, use_cache=False).logits.float() for part in (adapted, merged))
    if before.shape[-1] > 1:
        before, after = before.log_softmax(-1), after.log_softmax(-1)
    gap = (before - after).abs()
    exact = merged.dtype == torch.float32
    found, allowed = (gap.max().item(), 1e-3) if exact else (gap.mean().item(), 0.1)
    if not found <= allowed:
        raise ModelError(
            f"the merged model's outputs differ from the adapted model's by {found:.3g} (allowed {allowed});"
            " the adapter was not merged right. Save the adapter alone with model.save_pretrained(directory) and"
            " load it onto its base model."
        )
    return gap.max().item()


def _trained_tokens(model: PeftModel) -> list[int]:
    asked: Any = getattr(model.peft_config[active_adapter(model)], "trainable_token_indices", None) or []
    return [int(token) for token in (next(iter(asked.values())) if isinstance(asked, dict) else asked)]


def _shadow(model: PeftModel) -> PeftModel:
    """A copy of the modules over the same weights, on the CPU: its parameters can be replaced, not the model's own."""
    shared = {id(p): nn.Parameter(p.detach().cpu(), requires_grad=False) for p in model.parameters()}
    shadow: PeftModel = copy.deepcopy(model, memo=shared)
    return shadow.cpu()


def _untie(shadow: PeftModel) -> None:
    """Gives a matrix of its own to each layer that has an adapter on one which another layer uses, too."""
    seen: dict[int, int] = {}
    for _, parameter in shadow.named_parameters(remove_duplicate=False):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    for layer in shadow.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "lora_A"):
            base: Any = layer.get_base_layer()
            if seen.get(id(getattr(base, "weight", None)), 0) > 1:
                base.weight = nn.Parameter(base.weight.detach(), requires_grad=False)


def _say_whether_tied(merged: Any) -> None:
    """Writes into the config that embedding and head differ now, where they do, so that both are saved and loaded."""
    shape, head = merged.config.get_text_config(), merged.get_output_embeddings()
    if head is None or not getattr(shape, "tie_word_embeddings", False):
        return
    embedding = merged.get_input_embeddings().weight
    if head.weight is not embedding and not torch.equal(head.weight, embedding):
        merged.config = copy.deepcopy(merged.config)
        merged.config.tie_word_embeddings = merged.config.get_text_config().tie_word_embeddings = False
