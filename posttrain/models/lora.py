"""LoRA through peft: adapters put onto a model, and kept in checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from torch import nn
from transformers import PreTrainedModel

from posttrain.errors import ConfigError, ModelError
from posttrain.models.adapter_start import load_started, remember_start, save_started, start_of
from posttrain.models.lora_settings import (
    changes_base,
    is_named,
    linear_names,
    lora_config,
    refuse_other_methods,
    refuse_unmatched,
    settle_targets,
)
from posttrain.models.new_tokens import output_of, row_owners


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
    tokens: Sequence[int] = (),
) -> PreTrainedModel | PeftModel:
    """The model with a fresh adapter as `peft_config` says; only the adapter is trained, and the rows of `tokens`.

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
        refuse_other_methods(model.peft_config[active_adapter(model)])
        model.set_adapter(active_adapter(model))
        return model
    if peft_config is None:
        return model
    config = lora_config(peft_config)
    settle_targets(config, model)
    if config.task_type is None:
        config.task_type = task_type
    elif config.task_type != task_type:
        what = "policy" if task_type == TaskType.CAUSAL_LM else "reward model"
        raise ConfigError(
            f"peft_config.task_type is {str(config.task_type)!r}: a {what} needs {str(task_type.value)!r}, or leave it"
            " out."
        )
    config.trainable_token_indices = _trained_rows(model, config, tokens)
    refuse_unmatched(config, model)
    try:
        with warnings.catch_warnings():  # peft asks transformers by a name that is to go
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            adapted: PeftModel = get_peft_model(model, config)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"the adapter cannot be put onto {type(model).__name__}: {str(error).splitlines()[0]} Its linear layers are"
            f" {', '.join(linear_names(model))}. Leave target_modules out for all of them but the head."
        ) from error
    if changes_base(config):
        remember_start(adapted)
    return adapted


def _trained_rows(model: Any, config: LoraConfig, tokens: Sequence[int]) -> Any:
    """peft's `trainable_token_indices`: the rows asked for and those of `tokens`, wherever a token has a row.

    Modules that are trained anyway are left out. Raises ConfigError for tokens that the model has no row for.
    """
    asked = config.trainable_token_indices
    if isinstance(asked, dict):
        asked_for = {name: sorted({*rows, *tokens}) for name, rows in asked.items()}
        return asked_for or None
    rows = sorted({*(asked or ()), *tokens})
    if not rows:
        return None
    if rows[0] < 0 or rows[-1] >= embedding_rows(model):
        bad = rows[0] if rows[0] < 0 else rows[-1]
        last = embedding_rows(model) - 1
        raise ConfigError(f"trainable_token_indices has {bad}: the model embeds the tokens 0 to {last}")
    targets = config.target_modules if not isinstance(config.target_modules, str) else ()
    named = [*(config.modules_to_save or ()), *(targets or ())]
    owners = [owner for owner in row_owners(model) if not is_named(model, owner, named)]
    head = output_of(model)
    if head is not None and getattr(head, "bias", None) is not None and not is_named(model, head, named):
        path = next(path for path, part in model.named_modules() if part is head)
        raise ConfigError(
            f"the head of {type(model).__name__} has a bias, which peft leaves out where single rows of it are trained:"
            f" train it whole, with modules_to_save=[{path!r}] (lora_modules_to_save on the command line)."
        )
    paths = [next(path for path, part in model.named_modules() if part is owner) for owner in owners]
    return dict.fromkeys(paths, rows) or None


def is_usual(model: PeftModel) -> bool:
    """Whether the adapter is scaled by alpha / r and begins beside the weights, not as a part of them."""
    config: Any = model.peft_config[active_adapter(model)]
    return not config.use_rslora and not changes_base(config)


def describe_adapter(model: PeftModel) -> str:
    """A sentence on the adapter that is trained: its kind, rank, scale and place."""
    name = active_adapter(model)
    config: Any = model.peft_config[name]
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and name in layer.scaling]
    ranks = sorted({int(layer.r[name]) for layer in layers})
    scales = sorted({round(float(layer.scaling[name]), 4) for layer in layers})
    kind = "DoRA" if config.use_dora else "rank-stabilised LoRA" if config.use_rslora else "LoRA"
    start = f", started by {config.init_lora_weights}" if isinstance(config.init_lora_weights, str) else ""
    parts = [f"{kind} of rank {_span(ranks)}{start}, scaled by {_span(scales)}, on {len(layers)} layers"]
    if config.modules_to_save:
        parts.append(f"whole: {', '.join(sorted(config.modules_to_save))}")
    if config.trainable_token_indices:
        some = config.trainable_token_indices
        count = len(next(iter(some.values())) if isinstance(some, dict) else some)
        parts.append(f"rows of tokens: {count}")
    return "; ".join(parts)


def _span(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}" if values else "none"


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Writes the adapter that is being trained into the directory, whatever its name.

    Anyone can put it onto the base model. Where its start was taken out of the base (PiSSA), a second file holds what
    `load_adapter` needs.
    """
    name = active_adapter(model)
    if start_of(model):
        save_started(model, name, directory)
        return
    model.save_pretrained(str(directory), selected_adapters=[name], save_embedding_layers=False)
    if (inner := directory / name).is_dir():  # peft gives every adapter but "default" a folder of its own
        for path in inner.iterdir():
            path.rename(directory / path.name)
        inner.rmdir()


def load_adapter(model: PeftModel, directory: Path) -> None:
    """Puts the weights that `save_adapter` wrote back into the adapter. Raises ModelError if any are missing."""
    if start_of(model):
        weights = load_started(model, active_adapter(model), directory)
    else:
        weights = load_peft_weights(str(directory), device=str(model.device))
    found: Any = set_peft_model_state_dict(model, weights, adapter_name=active_adapter(model))
    ours = ("lora_", "modules_to_save", "trainable_tokens")
    lost = [name for name in found.missing_keys if any(part in name for part in ours)]
    if lost or found.unexpected_keys:
        raise ModelError(
            f"the adapter in {directory} does not fit the model: {', '.join([*lost, *found.unexpected_keys][:3])} ..."
        )


def active_adapter(model: PeftModel) -> str:
    """The name of the adapter that is in use. Raises ModelError where there are several."""
    active = model.active_adapter
    if not isinstance(active, str):
        raise ModelError(f"the model has several active adapters ({active}): choose one with model.set_adapter(name).")
    return active
