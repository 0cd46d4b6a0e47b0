"""What every trainer's constructor does first: tokenizer, model, adapter, machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel, TaskType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.config.lora import adapter_learning_rate
from posttrain.config.training import TrainingConfig
from posttrain.engine.checkpoint import checkpoints
from posttrain.engine.log_level import set_log_level
from posttrain.engine.loss_scale import LossScale
from posttrain.engine.precision import Precision, fastest_precision
from posttrain.engine.runtime import Runtime, seed_everything
from posttrain.engine.step import Budget
from posttrain.errors import ConfigError, ModelError
from posttrain.models.heads import KEEP_BYTES
from posttrain.models.learner import Learner
from posttrain.models.loading import (
    as_dtype,
    check_vocabulary,
    hub_options,
    load_model,
    load_tokenizer,
    prepare_tokenizer,
)
from posttrain.models.lora import apply_lora, describe_adapter, is_usual, trainable_parameters
from posttrain.models.new_tokens import add_tokens, ids_of, make_rows_for
from posttrain.models.quantisation import check_adapted, is_quantised
from posttrain.models.score_loading import load_score_model, score_model_of, settle_pad_token
from posttrain.models.scoring import ScoreLearner
from posttrain.trainers.chat_template import chat_template
from posttrain.trainers.checks import Data, check_before_loading, check_positions, count_steps

CUDA_TOKENS_PER_PASS = 16384  # halved as often as memory asks for it
CPU_TOKENS_PER_PASS = 1024  # more makes a CPU no faster; half takes 5% longer and splits groups: docs/models.md


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A learner on its machine, and the configuration with everything decided that was left open."""

    learner: Any  # Learner, or ScoreLearner for a model that gives scores
    runtime: Runtime
    budget: Budget
    config: TrainingConfig
    measured: frozenset[str]  # the settings that were picked by measurement, not asked for
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
        hub = hub_options(config.model_init_kwargs or {})
        tokenizer = load_tokenizer(name, trust_remote_code=config.trust_remote_code, **hub)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"processing_class is a {type(tokenizer).__name__}; it must be a tokenizer of transformers, "
            "as AutoTokenizer.from_pretrained gives it"
        )
    add_tokens(tokenizer, plain=config.add_tokens, special=config.add_special_tokens)
    for field in ("eos_token", "pad_token"):
        token = getattr(config, field, None)
        if token is not None:
            if token not in tokenizer.get_vocab():
                raise ConfigError(f"{field}={token!r} is not in the tokenizer's vocabulary")
            setattr(tokenizer, field, token)
    if (template := getattr(config, "chat_template_path", None)) is not None:
        tokenizer.chat_template = chat_template(template, tokenizer)
    prepare_tokenizer(tokenizer)
    return tokenizer


def set_up_machine(config: TrainingConfig) -> Runtime:
    """Threads, seed and processes, before anything is computed."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    seed_everything(config.seed)
    if config.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    set_log_level(config)
    return Runtime(config=config)


def load_onto(
    model: Any, device: torch.device, config: TrainingConfig, *, load: Callable[..., Any] = load_model
) -> PreTrainedModel:
    """The model itself, or loaded by name or path, on the device."""
    if isinstance(model, str | os.PathLike):
        options = dict(config.model_init_kwargs or {})
        dtypes = [options.pop(name) for name in ("dtype", "torch_dtype") if name in options]
        if dtypes and config.dtype is not None:
            raise ConfigError(f"dtype={config.dtype!r} and model_init_kwargs say the number type twice")
        if placed := [name for name in ("device", "device_map") if options.pop(name, None) is not None]:
            raise ConfigError(f"model_init_kwargs[{placed[0]!r}]: the device follows from use_cpu and the processes")
        model = load(
            model,
            dtype=config.dtype or next(iter(dtypes), None),
            device=device,
            trust_remote_code=config.trust_remote_code,
            **options,
        )
    elif not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise ModelError(
            f"model is a {type(model).__name__}; give a path, a name, or a causal language model of transformers"
        )
    elif config.model_init_kwargs:
        raise ConfigError("model_init_kwargs is for a model given by name; this one is loaded already")
    elif config.dtype not in (None, "auto"):
        model = model.to(as_dtype(config.dtype))
    return model if is_quantised(model) else model.to(device)


def load_beside(
    model: Any,
    device: torch.device,
    config: TrainingConfig,
    *,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Data | None] = (),
    room: int = 0,
    load: Callable[..., Any] = load_model,
) -> PreTrainedModel:
    """Another model that reads what the trained one does, as `load_onto` has it, given as the argument `name`.

    `model_init_kwargs` is for those given by name or path. Raises ModelError and ConfigError that begin with `name`
    where the model has no room for the tokenizer's tokens or for the rows, with `room` for what is written after them.
    Of tokens that the configuration adds, a model given by name or path gets the rows it lacks.
    """
    named = isinstance(model, str | os.PathLike)
    loaded = load_onto(
        model, device, config if named else config.model_copy(update={"model_init_kwargs": None}), load=load
    )
    if named:  # a model of the caller's own is left as it is
        make_rows_for(loaded, tokenizer, ids_of(tokenizer, config.add_tokens, config.add_special_tokens), fresh=False)
    try:
        check_vocabulary(tokenizer, loaded)
        check_positions(loaded, *rows, room=room)
    except (ModelError, ConfigError) as error:
        raise type(error)(f"{name}: {error}") from None
    return loaded


def assemble(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainingConfig,
    *,
    train: Data | None,
    evaluation: Data | None,
    count: Callable[[TrainingConfig, int, int], int] = count_steps,
    peft_config: Any = None,
    callbacks: Sequence[Any] | None = None,
    dropout: bool = True,
    room: int = 0,
    scores: bool = False,
) -> Assembled:
    """The learner for this model, and the configuration with dtype, precision, budget and threads decided.

    Says what the data is, and checks everything that can be checked, before the model is loaded. `count(config, rows,
    processes)` gives the steps of a run; `room` is the number of tokens that are written after a row. With `scores` the
    model is one that gives scores instead of log-probabilities.
    """
    runtime = set_up_machine(config)
    check_before_loading(
        config, callbacks=callbacks, train=train, evaluation=evaluation, peft_config=peft_config,
        count=lambda rows: count(config, rows, runtime.world_size),
    )  # fmt: skip
    for data in (train, evaluation):
        if data is not None and runtime.speaks():
            print(data.report.text())
    device = runtime.device
    model = load_onto(model, device, config, load=load_score_model if scores else load_model)
    named = ids_of(tokenizer, config.add_tokens, config.add_special_tokens)
    notes = make_rows_for(model, tokenizer, named)
    if scores:
        model = score_model_of(model)
        notes += check_vocabulary(tokenizer, model)
        notes += settle_pad_token(model, tokenizer, asked=getattr(config, "pad_token", None) is not None)
    else:
        notes += prepare_tokenizer(tokenizer, model)
    kind = TaskType.SEQ_CLS if scores else TaskType.CAUSAL_LM
    model = apply_lora(model, peft_config, task_type=kind, tokens=named)
    check_adapted(model)
    if not trainable_parameters(model).trainable:
        raise ConfigError(
            "every parameter of the model is frozen: unfreeze some with requires_grad_, or pass a peft_config"
        )
    notes += check_positions(model, train, evaluation, room=room)
    learner: Any = ScoreLearner(model) if scores else Learner(model)
    if not dropout:
        learner.switch_off_dropout()
    if alpha := getattr(config, "neftune_noise_alpha", None):
        learner.disturb_embeddings(alpha)
    if config.use_cache is not None:
        model.config.use_cache = config.use_cache
    if config.compiles:
        learner.compile_body(backend=config.torch_compile_backend or "inductor", mode=config.torch_compile_mode)
    if config.gradient_checkpointing:
        learner.recompute_activations(**(config.gradient_checkpointing_kwargs or {}))
    shape = model.config.get_text_config()
    precision = _precision(config, device, shape.hidden_size)
    runtime.autocast_dtype = precision.autocast
    runtime.loss_scale = LossScale() if config.fp16 else None
    tokens = config.max_tokens_per_pass or tokens_per_pass(device, shape.vocab_size)
    chosen = {
        "bf16": precision.dtype == torch.bfloat16,
        "dtype": _name(model.dtype),
        "gradient_checkpointing": bool(config.gradient_checkpointing),
        "max_tokens_per_pass": tokens,
        "num_threads": torch.get_num_threads(),
    }
    if isinstance(model, PeftModel):
        notes.append(describe_adapter(model))
        if (rate := adapter_learning_rate(config, usual=is_usual(model))) is not None:
            chosen["learning_rate"] = rate.chosen
            notes.append(rate.why)
    computed = precision.dtype if precision.autocast else model.dtype
    notes += [
        str(trainable_parameters(model)),
        f"weights in {_name(model.dtype)}, computed in {_name(computed)} on {device} ({precision.reason})",
        f"{learner.layout.name} layout, {learner.head_note}, at most {tokens:,} tokens a pass, "
        f"{chosen['num_threads']} threads",
    ]
    if any(p.requires_grad and p.dtype != torch.float32 for p in model.parameters()):
        notes.append(
            f"trained in {_name(model.dtype)}, where updates below 1/256 of a weight are lost: dtype='float32' or LoRA "
            "keeps them"
        )
    if learner.layout_note:
        notes.append(f"slower than it could be, because {learner.layout_note}")
    return Assembled(
        learner=learner,
        runtime=runtime,
        budget=Budget(max_tokens=tokens, fixed=not config.auto_find_batch_size),
        config=config.model_copy(update=chosen),
        measured=frozenset(name for name in chosen if getattr(config, name) is None),
        notes=notes,
    )


def _precision(config: TrainingConfig, device: torch.device, hidden_size: int) -> Precision:
    """As set; or as in an earlier run here that may be resumed, which must not round differently; or the faster."""
    if config.fp16:
        return Precision.half()
    if config.bf16 is not None:
        return Precision.of(config.bf16, f"bf16={config.bf16} is set")
    file = Path(config.output_dir) / "config.yaml"
    if checkpoints(Path(config.output_dir)) and file.is_file():
        before = yaml.safe_load(file.read_text()).get("bf16")
        if before is not None:
            return Precision.of(before, f"as the earlier run in {config.output_dir}; set bf16 to choose anew")
    return fastest_precision(device, hidden_size)


def tokens_per_pass(device: torch.device, vocabulary: int) -> int:
    """Tokens of one pass: on a CPU few enough that the head can keep their probabilities for the backward."""
    if device.type != "cpu":
        return CUDA_TOKENS_PER_PASS
    return max(256, min(CPU_TOKENS_PER_PASS, KEEP_BYTES // (4 * vocabulary)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
