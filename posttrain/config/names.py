"""The names that TRL, transformers and their tutorials use and this project does not have as fields.

Four literal tables for each configuration: names that changed, names that can have one value only, names that
change nothing here, and names that are not supported. A name in none of them is a typing error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """An old name or a synonym: what it sets, and what the user is told ("" for a plain synonym)."""

    apply: Callable[[Any], dict[str, Any]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A name that has only these values here, and why."""

    values: tuple[Any, ...]
    reason: str


Entry = TypeVar("Entry")


def now(name: str) -> Renamed:
    """The entry of a field that is called `name` now."""
    return Renamed(apply=lambda value: {name: value}, note=f"is an old name: it is called {name} now")


def synonym(name: str) -> Renamed:
    """The entry of another current name of the field `name`."""
    return Renamed(apply=lambda value: {name: value})


def gone(why: str) -> Renamed:
    """The entry of a name that sets nothing any more: accepted, and the user is told why."""
    return Renamed(apply=lambda value: {}, note=f"has no effect any more: {why}")


def _group_by_length(value: Any) -> dict[str, Any]:
    return {"train_sampling_strategy": "group_by_length"} if value else {}


def _rpo(value: Any) -> dict[str, Any]:
    return {} if value is None else {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, value]}


TRAINING_RENAMED: Mapping[str, Renamed] = {
    "no_cuda": now("use_cpu"),
    "evaluation_strategy": now("eval_strategy"),
    "per_gpu_train_batch_size": now("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": now("per_device_eval_batch_size"),
    "torch_dtype": now("dtype"),
    "warmup_ratio": Renamed(
        apply=lambda value: {"warmup_steps": value},
        note="is an old name: write warmup_steps, where a number below 1 is a share of all steps",
    ),
    "group_by_length": Renamed(
        apply=_group_by_length, note='is an old name: write train_sampling_strategy="group_by_length"'
    ),
    "activation_checkpointing": synonym("gradient_checkpointing"),
    "activation_checkpointing_kwargs": synonym("gradient_checkpointing_kwargs"),
    "overwrite_output_dir": gone("an earlier run in output_dir is moved aside unless resume_from_checkpoint is set"),
    "use_mps_device": gone("the device is chosen; use_cpu=True keeps to the CPU"),
    "half_precision_backend": gone("bf16 is the only reduced precision"),
    "fp16_opt_level": gone("bf16 is the only reduced precision"),
    "fp16_backend": gone("bf16 is the only reduced precision"),
    "dataset_batch_size": gone("rows are tokenised in batches of a fitting size"),
    "adafactor": Renamed(
        apply=lambda value: {"optim": "adafactor"} if value else {}, note='is an old name: write optim="adafactor"'
    ),
    "include_tokens_per_second": gone("tokens per second are shown anyway"),
    "include_inputs_for_metrics": gone("evaluation returns the loss and its metrics"),
    "jit_mode_eval": gone("it is gone from transformers too"),
    "use_ipex": gone("it is gone from transformers too"),
    "past_index": gone("it is gone from transformers too"),
    "push_to_hub_model_id": now("hub_model_id"),
    "push_to_hub_token": now("hub_token"),
    "xpu_backend": now("ddp_backend"),
    "evaluate_during_training": Renamed(
        apply=lambda value: {"eval_strategy": "steps"} if value else {},
        note='is an old name: write eval_strategy="steps"',
    ),
    "gradient_checkpointing_use_reentrant": Renamed(
        apply=lambda value: {"gradient_checkpointing_kwargs": {"use_reentrant": value}},
        note="is an old name: write gradient_checkpointing_kwargs={'use_reentrant': ...}",
    ),
    **dict.fromkeys(
        ("use_legacy_prediction_loop", "mp_parameters", "torchdynamo", "ray_scope", "tpu_num_cores",
         "tpu_metrics_debug", "dispatch_batches", "split_batches", "ignore_bias_buffers"),
        gone("it is gone from transformers and TRL too, and nothing here needs it"),
    ),
}  # fmt: skip

_LIGER = "logits are computed at trained positions only, without a patched model"

TRAINING_FIXED: Mapping[str, Fixed] = {
    "label_smoothing_factor": Fixed(
        values=(0, 0.0), reason="it smooths the likelihood of SFT; DPOConfig has label_smoothing"
    ),
    "use_liger_kernel": Fixed(values=(False,), reason=_LIGER),
    "use_liger": Fixed(values=(False,), reason=_LIGER),
    "use_liger_loss": Fixed(values=(False,), reason=_LIGER),
    "liger_kernel_config": Fixed(values=(None,), reason=_LIGER),
    "save_on_each_node": Fixed(values=(False,), reason="the first process saves"),
    "save_safetensors": Fixed(values=(True,), reason="weights are saved as safetensors only"),
    "deepspeed": Fixed(values=(None, ""), reason="start several processes with torchrun; DeepSpeed is not supported"),
    "fsdp": Fixed(values=(None, "", False, []), reason="several processes train with DDP; sharding is not offered yet"),
    "fsdp_min_num_params": Fixed(values=(0,), reason="several processes train with DDP"),
    "fsdp_transformer_layer_cls_to_wrap": Fixed(values=(None,), reason="several processes train with DDP"),
    "sharded_ddp": Fixed(values=(None, "", False, []), reason="several processes train with DDP"),
    "tp_size": Fixed(values=(None, 0, 1), reason="several processes train with DDP"),
    "fsdp_config": Fixed(values=(None,), reason="several processes train with DDP; sharding is not offered yet"),
    "activation_offloading": Fixed(values=(False,), reason="set gradient_checkpointing=True to save memory"),
    "router_aux_loss_coef": Fixed(
        values=(None, 0, 0.0),
        reason="the balancing loss multiplies two means over a pass, so it is no sum over tokens: how a step is cut "
        "would change what is trained",
    ),
    "dataloader_in_order": Fixed(
        values=(True,), reason="batches come in the order of the seed, or a run could not be repeated"
    ),
    "do_predict": Fixed(values=(False,), reason="call posttrain evaluate"),
}

# "" stands for names that are the case here anyway: accepted without a word.
TRAINING_NO_EFFECT: Mapping[str, str] = {
    "padding_free": "",
    "dataloader_pin_memory": "batches are built where they are used",
    "dataloader_persistent_workers": "dataloader_num_workers are threads, which live as long as the run",
    "pad_to_multiple_of": "batches are not padded",
    "log_on_each_node": "the first process logs",
    "eval_accumulation_steps": "what compute_metrics is given lies in the CPU's memory, batch by batch",
    "eval_use_gather_object": "what processes have for compute_metrics is gathered as objects anyway",
}

TRAINING_UNSUPPORTED: Mapping[str, str] = {
    "label_names": "the trained tokens are found from the columns of the data",
    "parallelism_config": "several processes train with DDP only; leave it out",
    "dataloader_multiprocessing_context": "dataloader_num_workers are threads; leave it out",
    "trackio_static_space_id": "freeze a run afterwards with `trackio sync`; leave it out",
    "local_rank": "torchrun sets it in the environment; leave it out",
    "push_to_hub_organization": 'write hub_model_id="organization/name"',
    "datasets": "write train_dataset: a file, or a list of {path, config, split, columns, rows, weight}",
    "dataset_path": "write train_dataset",
    "model_adapter_name": "load the adapter with peft and pass the model object",
    "ref_adapter_name": "load the reference with peft and pass it as ref_model",
    "max_seq_len": "write max_length",
    "attn_implementation": "attention is chosen by the forest engine; leave it out",
}

SFT_RENAMED: Mapping[str, Renamed] = {
    **TRAINING_RENAMED,
    "max_seq_length": now("max_length"),
    "num_of_sequences": gone("it belonged to packing; batches here are laid end to end without padding anyway"),
    "chars_per_token": gone("it belonged to packing; batches here are laid end to end without padding anyway"),
}

_OF_SFT = frozenset(["label_smoothing_factor", "padding_free"])  # fields there


def _other(table: Mapping[str, Entry]) -> dict[str, Entry]:
    return {name: entry for name, entry in table.items() if name not in _OF_SFT}


SFT_FIXED: Mapping[str, Fixed] = _other(TRAINING_FIXED)

SFT_NO_EFFECT: Mapping[str, str] = _other(TRAINING_NO_EFFECT)

SFT_UNSUPPORTED: Mapping[str, str] = {
    **TRAINING_UNSUPPORTED,
    "max_prompt_length": "it belongs to preference training; write max_length",
    "beta": "it belongs to DPOConfig",
    "formatting_func": "map the dataset to a text column first",
}

_CUT = "prompt and completion are cut together, by max_length"

DPO_RENAMED: Mapping[str, Renamed] = {
    **TRAINING_RENAMED,
    "max_seq_length": now("max_length"),
    "max_prompt_length": gone(f"{_CUT}, as in TRL since 1.0"),
    "max_completion_length": gone(f"{_CUT}, as in TRL since 1.0"),
    "max_target_length": gone(f"{_CUT}, as in TRL since 1.0"),
    "label_pad_token_id": gone("batches are not padded"),
    "padding_value": gone("batches are not padded"),
    "padding_side": gone("batches are not padded"),
    "base_model_attribute_name": gone("logits are computed at trained positions only, for every model"),
}

# where the loss may be a weighted list
LISTED_LOSSES_RENAMED: Mapping[str, Renamed] = {
    "rpo_alpha": Renamed(
        apply=_rpo, note='is an old name: write loss_type=["sigmoid", "sft"] and loss_weights=[1.0, alpha]'
    ),
}

DPO_FIXED: Mapping[str, Fixed] = {
    **TRAINING_FIXED,
    "generate_during_eval": Fixed(values=(False,), reason="generate afterwards with test_model_with_questions"),
    "is_encoder_decoder": Fixed(values=(None, False), reason="only causal language models are trained"),
    "reference_free": Fixed(values=(False,), reason="the loss compares with a reference model; CPOConfig has none"),
    "use_logits_to_keep": Fixed(values=(True, False), reason="logits are computed at trained positions only"),
    "use_num_logits_to_keep": Fixed(values=(True, False), reason="logits are computed at trained positions only"),
    "force_use_ref_model": Fixed(values=(False,), reason="pass ref_model, it is always used"),
}

DPO_NO_EFFECT: Mapping[str, str] = {
    **TRAINING_NO_EFFECT,
}

DPO_UNSUPPORTED: Mapping[str, str] = {
    **TRAINING_UNSUPPORTED,
    "tools": "give rows a column tools",
    "ref_model_init_kwargs": "load the reference yourself and pass it as ref_model",
    "dataset_text_field": "it belongs to SFT; preference rows have the columns prompt, chosen and rejected",
    "packing": "it belongs to SFT; leave it out",
    "completion_only_loss": "it belongs to SFT: preference training scores completions only",
    "assistant_only_loss": "it belongs to SFT: preference training scores completions only",
}
