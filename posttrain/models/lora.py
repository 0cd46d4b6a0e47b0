"""LoRA through peft: adapters on every linear layer, and their export as an ordinary merged model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn
from transformers import PreTrainedModel

from posttrain.errors import ConfigError, ModelError, nearest

ADAPTER_FOLDER = "adapter"
SETTINGS = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """How many of a model's parameters are trained."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.trainable / max(self.total, 1)
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.2f}%)"


def trainable_parameters(model: nn.Module) -> ParameterCount:
    """How many parameters require a gradient and how many there are; tied ones count once."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return ParameterCount(trainable=sum(n for n, trained in counts if trained), total=sum(n for n, _ in counts))


def embedding_rows(model: PreTrainedModel | PeftModel) -> int:
    """How many tokens the model embeds; a tokenizer's vocabulary may be smaller."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def apply_lora(
    model: PreTrainedModel | PeftModel,
    peft_config: LoraConfig | Mapping[str, Any] | Any | None,
    *,
    task_type: TaskType = TaskType.CAUSAL_LM,
) -> PreTrainedModel | PeftModel:
    """The model with a fresh adapter as `peft_config` says; only the adapter is trained.

    `peft_config` is a LoraConfig, a dict of its fields, or an object with `lora_r`, `lora_alpha`, `lora_dropout`,
    `lora_target_modules`. Without target modules all linear layers but the head get one. None leaves a plain model
    as it is; a model that already has an adapter is accepted with None only, and its adapter is made trainable.
    With the task type SEQ_CLS the score head is trained and saved whole, beside the adapter.
    The adapter's values are drawn from torch's global random state.
    """
    if isinstance(model, PeftModel):
        if peft_config is not None:
            raise ModelError(
                "the model already has an adapter and peft_config asks for another. Leave peft_config out to train"
                " the one it has, or merge it first: model = model.merge_and_unload()."
            )
        _refuse_other_methods(model.peft_config[_active(model)])
        model.set_adapter(_active(model))
        return model
    if peft_config is None:
        return model
    config = lora_config(peft_config)
    if config.target_modules is None and not config.target_parameters:
        config.target_modules = "all-linear"
    if config.task_type is None:
        config.task_type = task_type
    elif config.task_type != task_type:
        what = "policy" if task_type == TaskType.CAUSAL_LM else "reward model"
        raise ConfigError(
            f"peft_config.task_type is {str(config.task_type)!r}: a {what} needs {str(task_type.value)!r}, or leave it"
            " out."
        )
    try:
        return get_peft_model(model, config)
    except (ValueError, KeyError) as error:
        layers = sorted(
            {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        )
        wanted = config.target_modules
        unknown = sorted(set(wanted) - set(layers)) if isinstance(wanted, list | set | tuple) else []
        hint = "".join(nearest(name, layers) for name in unknown[:1])
        raise ConfigError(
            f"the adapter cannot be put onto {type(model).__name__}: {str(error).splitlines()[0]} Its linear layers are"
            f" {', '.join(layers)}{hint}. Leave target_modules out for all of them but the head."
        ) from error


def lora_config(peft_config: LoraConfig | Mapping[str, Any] | Any) -> LoraConfig:
    """The LoraConfig, the caller's own left unchanged. Raises ConfigError for unknown fields and other methods."""
    if isinstance(peft_config, PeftConfig):
        _refuse_other_methods(peft_config)
        return copy.deepcopy(peft_config)  # type: ignore[return-value]
    if isinstance(peft_config, Mapping):
        fields = dict(peft_config)
    elif hasattr(peft_config, "lora_r"):
        fields = {theirs: getattr(peft_config, ours) for ours, theirs in SETTINGS.items() if hasattr(peft_config, ours)}
        fields["target_modules"] = getattr(peft_config, "lora_target_modules", None)
        fields = {name: value for name, value in fields.items() if value is not None}
    else:
        raise ConfigError(
            f"peft_config is a {type(peft_config).__name__}: give a peft.LoraConfig or a dict such as"
            " {'r': 16, 'lora_alpha': 32}."
        )
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in fields:
        if name not in known:
            raise ConfigError(f"peft_config has the unknown field {name!r}{nearest(name, known)}.")
    targets = fields.get("target_modules")
    if isinstance(targets, list | tuple) and list(targets) == ["all-linear"]:  # as a command line gives it
        fields["target_modules"] = "all-linear"
    try:
        return LoraConfig(**fields)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"peft_config: {str(error).splitlines()[0]}") from error


def merge_and_save(model: PeftModel, directory: str | Path) -> None:
    """Writes the merged model as an ordinary model directory, and the adapter alone into its folder `adapter/`.

    The live model is not touched. Before anything is written, the merged model's log-probabilities are compared
    with the adapted ones'; ModelError where they differ by more than rounding.
    """
    merged = merged_copy(model)
    check_merged(model, merged)
    directory = Path(directory)
    merged.save_pretrained(directory)
    model.save_pretrained(str(directory / ADAPTER_FOLDER))


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Writes the adapter that is being trained into the directory, whatever its name."""
    name = _active(model)
    model.save_pretrained(str(directory), selected_adapters=[name])
    if (inner := directory / name).is_dir():  # peft gives every adapter but "default" a folder of its own
        for path in inner.iterdir():
            path.rename(directory / path.name)
        inner.rmdir()


def load_adapter(model: PeftModel, directory: Path) -> None:
    """Puts the weights that `save_adapter` wrote back into the adapter. Raises ModelError if any are missing."""
    weights = load_peft_weights(str(directory), device=str(model.device))
    found: Any = set_peft_model_state_dict(model, weights, adapter_name=_active(model))
    lost = [name for name in found.missing_keys if "lora_" in name or "modules_to_save" in name]
    if lost or found.unexpected_keys:
        raise ModelError(
            f"the adapter in {directory} does not fit the model: {', '.join([*lost, *found.unexpected_keys][:3])} ..."
        )


def merged_copy(model: PeftModel) -> PreTrainedModel:
    """A model with the adapter added into its weights; it shares every other weight with the live one."""
    shadow = _shadow(model)
    try:
        # Safe merging puts new tensors in the place of the shared ones instead of adding into them.
        merged: PreTrainedModel = shadow.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be merged: {error}") from error
    return merged


@torch.no_grad()
def check_merged(model: PeftModel, merged: PreTrainedModel, *, tokens: int = 16) -> float:
    """The largest difference of a log-probability between the adapted and the merged model on a few random tokens.

    Of a score, where the model gives one. Raises ModelError where it is beyond rounding: 1e-3 in float32, a mean of 0.1
    in shorter formats.
    """
    adapted = _shadow(model).eval()
    vocabulary = embedding_rows(merged)
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(vocabulary, (1, tokens), generator=generator).to(merged.device)
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


def _shadow(model: PeftModel) -> PeftModel:
    """A copy of the modules over the same weights, on the CPU: its parameters can be replaced, not the model's own."""
    shared = {id(p): nn.Parameter(p.detach().cpu(), requires_grad=False) for p in model.parameters()}
    shadow: PeftModel = copy.deepcopy(model, memo=shared)
    return shadow.cpu()


def _active(model: PeftModel) -> str:
    active = model.active_adapter
    if not isinstance(active, str):
        raise ModelError(f"the model has several active adapters ({active}): choose one with model.set_adapter(name).")
    return active


def _refuse_other_methods(config: PeftConfig) -> None:
    if not isinstance(config, LoraConfig):
        raise ConfigError(
            f"peft_config is a {type(config).__name__}: only LoRA is supported (peft.LoraConfig, also with use_dora"
            " or use_rslora)."
        )
