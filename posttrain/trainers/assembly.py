"""What every trainer's constructor does first: tokenizer, model, adapter, machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.config.training import TrainingConfig
from posttrain.engine.precision import choose_precision
from posttrain.engine.runtime import Runtime, seed_everything
from posttrain.errors import ConfigError, ModelError
from posttrain.models.heads import KEEP_BYTES
from posttrain.models.learner import Learner
from posttrain.models.loading import as_dtype, load_model, load_tokenizer, prepare_tokenizer
from posttrain.models.lora import apply_lora, trainable_parameters

CUDA_TOKENS_PER_PASS = 16384  # halved as often as memory asks for it
CPU_TOKENS_PER_PASS = 1024  # more makes a CPU no faster and takes more memory: benchmarks/README.md


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A learner on its machine, and the configuration with everything decided that was left open."""

    learner: Learner
    runtime: Runtime
    config: TrainingConfig
    notes: list[str]  # what was chosen and why, a sentence each


def resolve_tokenizer(model: Any, processing_class: Any, config: TrainingConfig) -> PreTrainedTokenizerBase:
    """The tokenizer given, or the one that belongs to the model, with the settings of the configuration."""
    tokenizer = processing_class
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = load_tokenizer(tokenizer, trust_remote_code=config.trust_remote_code)
    if tokenizer is None:
        name = model if isinstance(model, str | os.PathLike) else model.config._name_or_path
        if not name:
            raise ModelError(
                "the model was built in memory and does not say which tokenizer is its own: pass processing_class"
            )
        tokenizer = load_tokenizer(name, trust_remote_code=config.trust_remote_code)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"processing_class is a {type(tokenizer).__name__}; it must be a tokenizer of transformers, "
            "as AutoTokenizer.from_pretrained gives it"
        )
    for field in ("eos_token", "pad_token"):
        token = getattr(config, field, None)
        if token is not None:
            if token not in tokenizer.get_vocab():
                raise ConfigError(f"{field}={token!r} is not in the tokenizer's vocabulary")
            setattr(tokenizer, field, token)
    if (template := getattr(config, "chat_template_path", None)) is not None:
        tokenizer.chat_template = _template(template)
    prepare_tokenizer(tokenizer)
    return tokenizer


def _template(path: str) -> str:
    place = Path(path)
    if place.is_dir():
        template = load_tokenizer(place).chat_template
        if not template:
            raise ConfigError(f"chat_template_path={path!r}: the tokenizer there has no chat template")
        return template
    if not place.is_file():
        raise ConfigError(f"chat_template_path={path!r} is neither a file nor a tokenizer's directory")
    return place.read_text()


def set_up_machine(config: TrainingConfig) -> Runtime:
    """Threads, seed and processes, before anything is computed."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    seed_everything(config.seed)
    return Runtime(use_cpu=config.use_cpu)


def load_onto(model: Any, device: torch.device, config: TrainingConfig) -> PreTrainedModel:
    """The model itself, or loaded by name or path, on the device."""
    if isinstance(model, str | os.PathLike):
        model = load_model(
            model, dtype=config.dtype, device=device, trust_remote_code=config.trust_remote_code,
            **(config.model_init_kwargs or {}),
        )  # fmt: skip
    elif not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise ModelError(
            f"model is a {type(model).__name__}; give a path, a name, or a causal language model of transformers"
        )
    else:
        if config.model_init_kwargs:
            raise ConfigError("model_init_kwargs is for a model given by name; this one is loaded already")
        if config.dtype not in (None, "auto"):
            model = model.to(as_dtype(config.dtype))
    return model.to(device)


def assemble(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainingConfig,
    runtime: Runtime,
    peft_config: Any = None,
    *,
    dropout: bool = True,
) -> Assembled:
    """The learner for this model, and the configuration with dtype, precision, budget and threads decided."""
    device = runtime.device
    model = load_onto(model, device, config)
    notes = prepare_tokenizer(tokenizer, model)
    model = apply_lora(model, peft_config)
    learner = Learner(model)
    if not dropout:
        learner.switch_off_dropout()
    asked = config.bf16 if config.bf16 is not None else _chosen_before(config)
    precision = choose_precision(device, asked, model.config.get_text_config().hidden_size)
    runtime.autocast_dtype = precision.autocast
    recompute = bool(config.gradient_checkpointing)
    if recompute:
        learner.recompute_activations(**(config.gradient_checkpointing_kwargs or {}))
    budget = config.max_tokens_per_pass or _tokens_per_pass(device, model.config.get_text_config().vocab_size)
    notes += [
        str(trainable_parameters(model)),
        f"weights in {str(model.dtype).removeprefix('torch.')}, computed in "
        f"{str(precision.dtype).removeprefix('torch.')} on {device} ({precision.reason})",
        f"{learner.layout.name} layout, {'fused' if learner.fused_head else 'own'} head, "
        f"at most {budget:,} tokens a pass, {torch.get_num_threads()} threads",
    ]
    if learner.layout_note:
        notes.append(f"slower than it could be, because {learner.layout_note}")
    resolved = config.model_copy(
        update={
            "bf16": precision.dtype == torch.bfloat16,
            "dtype": str(model.dtype).removeprefix("torch."),
            "gradient_checkpointing": recompute,
            "max_tokens_per_pass": budget,
            "num_threads": torch.get_num_threads(),
        }
    )
    return Assembled(learner=learner, runtime=runtime, config=resolved, notes=notes)


def _chosen_before(config: TrainingConfig) -> bool | None:
    """The precision that a run in this directory found to be fast: resumed, it must not round differently."""
    file = Path(config.output_dir) / "config.yaml"
    return yaml.safe_load(file.read_text()).get("bf16") if file.is_file() else None


def _tokens_per_pass(device: torch.device, vocabulary: int) -> int:
    """Tokens of one pass: on a CPU few enough that the head can keep their probabilities for the backward."""
    if device.type != "cpu":
        return CUDA_TOKENS_PER_PASS
    return max(256, min(CPU_TOKENS_PER_PASS, KEEP_BYTES // (4 * vocabulary)))
