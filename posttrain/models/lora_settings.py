"""What an adapter is asked to be: a LoraConfig out of what was given, with everything refused that would not hold."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig, PeftConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.config.lora import start_problem
from posttrain.errors import ConfigError, nearest

FOR_ALL = "all-linear"
SETTINGS = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
CHANGES_BASE = ("pissa", "olora")  # starts that take out of the base what the adapter begins as
REFUSED = {
    "alora_invocation_tokens": "it looks for its tokens in padded rows, and such an adapter cannot be merged",
    "arrow_config": "it chooses among adapters that are trained already",
    "eva_config": "it is computed from the training rows' activations; use init_lora_weights='pissa'",
    "corda_config": "it is computed from the activations of sample rows; use init_lora_weights='pissa'",
    "lora_ga_config": "it is computed from the gradients of sample rows; use init_lora_weights='pissa'",
    "kasa_config": "its loss has terms of the adapter's own, which no loss here has; use init_lora_weights='pissa'",
    "monteclora_config": "it draws its weights at random in every pass, so that no two passes agree",
    "velora_config": "its gradients are approximate",
    "use_qalora": "it is for GPTQ weights",
    "layer_replication": "it makes another model; make that first and train it then",
    "lora_bias": "merging is possible only where every layer has a bias; use bias='lora_only'",
    "megatron_config": "it is for Megatron's layers",
    "use_bdlora": "it is for servers that split adapters",
}


def lora_config(peft_config: LoraConfig | Mapping[str, Any] | Any) -> LoraConfig:
    """The LoraConfig, the caller's own left unchanged; "all-linear" becomes None, which means the same.

    Raises ConfigError for unknown fields, for other methods than LoRA and for kinds of it that are refused.
    """
    if isinstance(peft_config, PeftConfig):
        refuse_other_methods(peft_config)
        config: Any = copy.deepcopy(peft_config)
    else:
        config = _from_fields(peft_config)
    start = config.init_lora_weights
    if isinstance(start, str) and (why := start_problem(start)):
        raise ConfigError(f"peft_config.init_lora_weights is {start!r}: {why}.")
    for name, reason in REFUSED.items():
        if getattr(config, name, None):
            raise ConfigError(f"peft_config.{name} is not supported: {reason}.")
    if config.use_dora and start not in (True, False, "gaussian"):
        raise ConfigError(
            f"peft_config has use_dora and init_lora_weights={start!r}: such an adapter could not be handed on without"
            " its base. Leave one of them out."
        )
    if config.target_modules == FOR_ALL:
        config.target_modules = None
    made: LoraConfig = config
    return made


def _from_fields(peft_config: Any) -> LoraConfig:
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
    if fields.get("target_modules") in (FOR_ALL, [FOR_ALL], (FOR_ALL,)):
        fields["target_modules"] = None  # peft would not take it together with layers_to_transform
    try:
        return LoraConfig(**copy.deepcopy(fields))  # peft writes into lists that it is given
    except (ValueError, TypeError) as error:
        raise ConfigError(f"peft_config: {str(error).splitlines()[0]}") from error


def refuse_other_methods(config: PeftConfig) -> None:
    """Raises ConfigError for what is not LoRA."""
    if not isinstance(config, LoraConfig):
        raise ConfigError(
            f"peft_config is a {type(config).__name__}: only LoRA is supported (peft.LoraConfig, also with use_dora"
            " or use_rslora)."
        )


def changes_base(config: LoraConfig) -> bool:
    """Whether the base is another than before once the adapter is on it."""
    return isinstance(config.init_lora_weights, str) and config.init_lora_weights.startswith(CHANGES_BASE)


def settle_targets(config: LoraConfig, model: Any) -> None:
    """Writes into the config what "all linear layers" means for the model. Raises ConfigError for what cannot be."""
    if config.target_modules is None:
        some = config.layers_to_transform is not None  # peft then wants the names
        config.target_modules = linear_names(model) if some else FOR_ALL
    if config.init_lora_weights == "olora" and any(isinstance(part, Conv1D) for part in model.modules()):
        raise ConfigError(
            f"peft_config.init_lora_weights is 'olora', which peft does not compute for {type(model).__name__}, whose"
            " matrices are stored the other way round. Use 'pissa'."
        )
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tied = head is not None and head.weight is embedding.weight
    on_words = any(is_named(model, part, config.target_modules) for part in (embedding, head))
    if changes_base(config) and (config.target_parameters or is_named(model, embedding, config.target_modules)):
        raise ConfigError(
            f"peft_config.init_lora_weights is {config.init_lora_weights!r}, which is for linear layers: leave the"
            " embedding out of target_modules, and target_parameters unset."
        )
    if tied and config.ensure_weight_tying and on_words:
        raise ConfigError(
            "peft_config has ensure_weight_tying and an adapter on the embedding, which is the head as well: such a"
            " model cannot be copied. Write modules_to_save=['embed_tokens'] with it, or leave it out."
        )


def refuse_unmatched(config: LoraConfig, model: Any) -> None:
    """Raises ConfigError for a name in the config that nothing in the model answers to; peft would pass over it."""
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    layers = linear_names(model)
    targets = config.target_modules if not isinstance(config.target_modules, str) else ()
    asked = {
        "target_modules": (targets or (), modules),
        "modules_to_save": (config.modules_to_save or (), modules),
        "target_parameters": (config.target_parameters or (), parameters),
        "rank_pattern": (config.rank_pattern or (), [*modules, *parameters]),
        "alpha_pattern": (config.alpha_pattern or (), [*modules, *parameters]),
    }
    for field, (names, paths) in asked.items():
        for name in sorted(names):
            if not any(re.fullmatch(rf"(.*\.)?({name.lstrip('^')})", path) for path in paths):
                raise ConfigError(
                    f"the adapter cannot be put onto {type(model).__name__}: {field} names {name!r}, which it does not"
                    f" have. Its linear layers are {', '.join(layers)}{nearest(name, layers) or '.'} Leave"
                    " target_modules out for all of them but the head."
                )
    numbers = config.layers_to_transform
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for number in [numbers] if isinstance(numbers, int) else numbers or ():
        if count is not None and not 0 <= number < count:
            raise ConfigError(
                f"layers_to_transform has {number}: {type(model).__name__} has the layers 0 to {count - 1}"
            )


def linear_names(model: Any) -> list[str]:
    """The last names of all linear layers but the head's, each once."""
    heads = [model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None]
    heads.append(getattr(model, "score", None))
    kinds = (nn.Linear, Conv1D)
    return sorted(
        {
            name.rpartition(".")[2]
            for name, part in model.named_modules()
            if isinstance(part, kinds) and not any(part is head for head in heads)
        }
    )


def is_named(model: nn.Module, module: nn.Module | None, names: Sequence[str] | set[str] | str | None) -> bool:
    """Whether peft would find the module under one of the names, which are ends of paths."""
    if module is None or not names or isinstance(names, str):
        return False
    paths = [path for path, part in model.named_modules() if part is module]
    return any(path == name or path.endswith(f".{name}") for path in paths for name in names)
