"""The keys of an Axolotl file, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.imports import axolotl_values as values
from posttrain.config.imports.translation import File, Key, chat_template, idle, lost, read_elsewhere, sets, to
from posttrain.errors import ConfigError, nearest

_METHODS_OF = {
    "dpo": "dpo", "ipo": "dpo", "orpo": "orpo", "simpo": "cpo", "kto": "kto", "grpo": "grpo", "gdpo": "grpo",
}  # fmt: skip


def method_of(given: File, source: str) -> str:
    """The method that does what `rl` and `reward_model` ask for. Raises ConfigError for another."""
    if given.get("reward_model"):
        return "reward"
    rl = given.get("rl")
    if not rl:
        return "sft"
    if rl not in _METHODS_OF:
        hint = nearest(str(rl), _METHODS_OF)
        raise ConfigError(f"{source}: rl={rl!r} has no counterpart{hint} (there are {', '.join(_METHODS_OF)})")
    return _METHODS_OF[str(rl)]


_SPEED = "it is another way to compute the same"
_KIND = "the model's own files say it"
_CACHE = "rows are rendered and tokenised anew, which takes seconds"
_ONE_RATE = "all weights have one learning rate"
_SHARDED = "several processes train with DDP; start them with torchrun"
_WATCH = "a loss that is not finite is skipped, and stops the run when it stays; alarms watch the rest"
_VLLM = "completions are drawn by the sampler of this package"

KEYS: Mapping[str, Key] = {
    # the model
    "base_model": to("model"),
    "tokenizer_config": lost("the tokenizer is that of the model; save another beside it"),
    "trust_remote_code": to("trust_remote_code"),
    "revision_of_model": sets(lambda value, _: {"model_init_kwargs": {"revision": value}}),
    "model_revision": sets(lambda value, _: {"model_init_kwargs": {"revision": value}}),
    "model_kwargs": to("model_init_kwargs"),
    "model_config": lost("set it in the model's config.json"),
    "overrides_of_model_config": lost("set it in the model's config.json"),
    **dict.fromkeys(
        ("base_model_config", "model_type", "type_of_model", "tokenizer_type", "cls_model_config", "processor_type",
         "tokenizer_use_fast", "tokenizer_legacy", "is_falcon_derived_model", "is_llama_derived_model",
         "is_mistral_derived_model", "is_qwen_derived_model", "hf_use_auth_token", "tokenizer_save_jinja_files",
         "num_labels"),
        idle(_KIND),
    ),
    "special_tokens": sets(values.special_tokens),
    "tokens": to("add_tokens"),
    "added_tokens_overrides": lost("write add_tokens; no token gives up its id"),
    "resize_token_embeddings_to_32x": idle("it changes no result"),
    "rope_scaling": lost("set rope_parameters in the model's config.json"),
    "load_in_8bit": to("load_in_8bit"),
    "load_in_4bit": to("load_in_4bit"),
    "gptq": lost("weights are quantised by bitsandbytes"),
    "bnb_config_kwargs": lost("bnb_4bit_quant_type, use_bnb_nested_quant and bnb_4bit_quant_storage are fields"),
    # the data
    "datasets": read_elsewhere(),
    "test_datasets": read_elsewhere(),
    "pretraining_dataset": read_elsewhere(),
    "val_set_size": lost("no part of the rows is kept for evaluation: write them to a file of their own and name it "
                         "in eval_dataset"),
    "sequence_len": sets(lambda value, given: {} if _METHODS_OF.get(str(given.get("rl"))) == "grpo"
                         else {"max_length": value}),
    "max_prompt_len": idle("prompt and answer are cut together, by max_length"),
    "min_sample_len": lost("posttrain data filter leaves out short rows (min_tokens)"),
    "excess_length_strategy": sets(values.too_long),
    "train_on_inputs": sets(values.inputs),
    "sample_packing": sets(lambda value, _: {"packing": True} if value else {}),
    "eval_sample_packing": to("eval_packing"),
    "multipack_real_batches": idle("it belongs to packing"),
    "pad_to_sequence_len": idle("there is no padding"),
    "batch_flattening": idle("there is no padding"),
    **dict.fromkeys(("sample_packing_group_size", "sample_packing_bin_size", "sample_packing_sequentially",
                     "pretraining_sample_concatenation", "pretrain_multipack_attn", "pretrain_multipack_buffer_size"),
                    idle("it belongs to packing")),
    "shuffle_merged_datasets": sets(lambda value, _: {} if value else {"train_sampling_strategy": "sequential"}),
    "curriculum_sampling": sets(lambda value, _: {"train_sampling_strategy": "sequential"} if value else {}),
    "group_by_length": sets(lambda value, _: {"train_sampling_strategy": "group_by_length"} if value else {}),
    "dataset_exact_deduplication": lost("posttrain data filter finds duplicates"),
    "chat_template": sets(chat_template),
    "chat_template_jinja": sets(values.jinja),
    "default_system_message": lost("a system message is one of the rows' messages, or of the chat template"),
    **dict.fromkeys(
        ("dataset_prepared_path", "dataset_processes", "dataset_num_proc", "dataset_keep_in_memory",
         "dataset_shard_num", "dataset_shard_idx", "skip_prepare_dataset", "streaming", "remove_unused_columns"),
        idle(_CACHE),
    ),
    "push_dataset_to_hub": lost("data is not uploaded"),
    # the adapter
    "adapter": sets(values.adapter),
    "lora_r": values.of_adapter("lora_r"),
    "lora_alpha": values.of_adapter("lora_alpha"),
    "lora_dropout": values.of_adapter("lora_dropout"),
    "lora_target_linear": sets(lambda value, given: {"lora_target_modules": "all-linear"}
                               if value and given.get("adapter") else {}),
    "lora_target_modules": sets(values.target),
    "lora_target_parameters": values.of_adapter("lora_target_parameters"),
    "lora_modules_to_save": values.of_adapter("lora_modules_to_save"),
    "peft_layers_to_transform": values.of_adapter("lora_layers_to_transform"),
    "peft_use_dora": values.of_adapter("use_dora"),
    "peft_use_rslora": values.of_adapter("use_rslora"),
    "peft_init_lora_weights": sets(values.start),
    "lora_model_dir": lost("an adapter is a model here: write its directory as base_model, without use_peft"),
    "lora_fan_in_fan_out": idle("peft knows it from the layers"),
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_on_cpu",
                     "qlora_sharded_model_loading"), idle(_SPEED)),
    **dict.fromkeys(("loraplus_lr_ratio", "embedding_lr", "embedding_lr_scale", "lr_groups"), lost(_ONE_RATE)),
    "loraplus_lr_embedding": lost(_ONE_RATE, unless=(1e-6,)),
    **dict.fromkeys(("relora", "unfrozen_parameters"),
                    lost("all weights are trained, or a LoRA adapter (use_peft)")),
    # the step
    "micro_batch_size": to("per_device_train_batch_size"),
    "gradient_accumulation_steps": to("gradient_accumulation_steps"),
    "batch_size": sets(values.total),
    "eval_batch_size": to("per_device_eval_batch_size"),
    "num_epochs": to("num_train_epochs"),
    "optimizer": to("optim"),
    "lr_scheduler": to("lr_scheduler_type"),
    "cosine_min_lr_ratio": sets(values.min_lr),
    "cosine_constant_lr_ratio": lost("the cosine goes to the end"),
    "lr_quadratic_warmup": lost("the warm-up is linear"),
    "warmup_ratio": to("warmup_steps"),
    "noisy_embedding_alpha": to("neftune_noise_alpha"),
    # the run
    "evaluation_strategy": to("eval_strategy"),
    "evals_per_epoch": values.times("eval_strategy", "eval_steps"),
    "saves_per_epoch": values.times("save_strategy", "save_steps"),
    "early_stopping_patience": lost("pass transformers' EarlyStoppingCallback to the trainer, in Python"),
    **dict.fromkeys(("loss_watchdog_threshold", "loss_watchdog_patience"), idle(_WATCH)),
    **dict.fromkeys(("eval_table_size", "eval_max_new_tokens", "do_causal_lm_eval", "eval_causal_lm_metrics",
                     "do_bench_eval", "bench_dataset"), lost("answers are measured by posttrain evaluate")),
    "use_wandb": values.tracker("wandb"),
    "wandb_project": values.project("wandb"),
    "wandb_name": to("run_name"),
    "wandb_run_id": to("run_name"),
    "wandb_*": idle("wandb reads its own environment variables"),
    "mlflow_*": idle("mlflow reads its own environment variables"),
    **dict.fromkeys(("use_comet", "use_otel_metrics", "comet_*", "trackio_*"),
                    lost("report_to names the trackers that there are")),
    **dict.fromkeys(("gradio_*", "use_ray", "ray_*", "cloud*"), idle("it belongs to another way of starting")),
    **dict.fromkeys(("use_pose", "pose_*", "lisa_*", "jagged_*", "relora_*", "qat*", "dion_*"), lost(
        "it is a method of its own, and not here")),
    "use_mlflow": values.tracker("mlflow"),
    "mlflow_experiment_name": values.project("mlflow"),
    "mlflow_run_name": to("run_name"),
    "use_tensorboard": values.tracker("tensorboard"),
    "hub_model_id": sets(lambda value, _: {"push_to_hub": True, "hub_model_id": value}),
    "hub_strategy": to("hub_strategy"),
    "output_dir": read_elsewhere(),
    "auto_resume_from_checkpoints": idle("posttrain run goes on with an interrupted stage by itself"),
    "resume_from_checkpoint": idle("posttrain run goes on with an interrupted stage by itself"),
    "local_rank": idle("torchrun says it"),
    "strict": idle("an unknown field is always an error"),
    "debug": idle("nothing depends on it"),
    # the machine
    "bf16": sets(values.bf16),
    "bfloat16": sets(lambda value, _: {"dtype": "bfloat16"} if value else {}),
    "float16": lost("weights are float32 or bfloat16"),
    "float32": sets(lambda value, _: {"dtype": "float32"} if value else {}),
    "fp8": lost("float8 is not offered"),
    "gradient_checkpointing": sets(values.checkpointing),
    "activation_offloading": to("activation_offloading"),
    **dict.fromkeys(
        ("flash_attention", "xformers_attention", "sdp_attention", "s2_attention", "flex_attention", "eager_attention",
         "attn_implementation", "flash_optimum", "plugins", "cut_cross_entropy", "low_cpu_mem_usage", "gc_steps",
         "device_map", "max_memory", "gpu_memory_limit", "use_kernels", "flash_attn_*", "unsloth_*", "liger_*"),
        idle(_SPEED),
    ),
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "fsdp_final_state_dict_type", "fsdp_version",
                     "tensor_parallel_size", "context_parallel_size", "dp_shard_size", "sequence_parallel_degree"),
                    lost(_SHARDED, unless=(None, False, "", [], {}, 0, 1))),
    # preferences and reinforcement learning
    "rl": sets(values.rl),
    "reward_model": read_elsewhere(),
    "process_reward_model": lost("a reward model scores whole answers"),
    "rl_beta": to("beta"),
    "dpo_beta": to("beta"),
    "orpo_alpha": to("beta"),
    "rpo_alpha": sets(lambda value, _: {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, value]}),
    "simpo_gamma": to("simpo_gamma"),
    "cpo_alpha": to("cpo_alpha"),
    "dpo_label_smoothing": to("label_smoothing"),
    "dpo_use_weighting": to("use_weighting"),
    "dpo_loss_type": to("loss_type"),
    "dpo_use_logits_to_keep": idle("logits are computed at trained positions only"),
    "precompute_ref_log_probs": idle("the reference is always computed once, before training"),
    "kto_desirable_weight": to("desirable_weight"),
    "kto_undesirable_weight": to("undesirable_weight"),
    "trl.use_vllm": lost(_VLLM),
    "trl.reward_funcs": sets(lambda value, _: {"reward_funcs": [values.function(name) for name in value]}),
    "trl": read_elsewhere(),
    "vllm": lost(_VLLM),
    "trl.vllm_*": lost(_VLLM),
}  # fmt: skip

# Keys that mean the same under the same name, those below `trl:` without it.
SAME = (
    "learning_rate", "weight_decay", "lr_scheduler_kwargs", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "max_steps", "warmup_steps", "eval_steps", "eval_strategy", "save_steps", "save_strategy", "save_total_limit",
    "save_only_model", "save_safetensors", "logging_steps", "seed", "fp16", "tf32", "neftune_noise_alpha",
    "gradient_checkpointing_kwargs", "center_rewards_coefficient", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "dataloader_pin_memory", "dataloader_num_workers", "dataloader_prefetch_factor",
    "dataloader_drop_last", "include_tokens_per_second", "torch_compile", "torch_compile_backend",
    "torch_compile_mode", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_find_unused_parameters",
    "accelerator_config", "optim_args", "optim_target_modules", "auto_find_batch_size", "label_smoothing_factor",
)  # fmt: skip
SAME_OF_TRL = (
    "beta", "max_completion_length", "num_generations", "reward_weights", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "num_iterations", "epsilon", "epsilon_high", "delta", "scale_rewards", "loss_type",
    "log_completions", "num_completions_to_print", "mask_truncated_completions", "sync_ref_model",
    "ref_model_mixup_alpha", "ref_model_sync_steps", "importance_sampling_level", "generation_batch_size",
    "steps_per_generation", "multi_objective_aggregation",
)  # fmt: skip


def defaults(given: File) -> dict[str, Any]:
    """What Axolotl takes where the file says nothing."""
    found: dict[str, Any] = {
        "per_device_train_batch_size": 1, "num_train_epochs": 1.0, "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
        "max_length": 512, "long_rows": "drop", "save_strategy": "epoch", "save_total_limit": 4, "logging_steps": 0.005,
    }  # fmt: skip
    if given.get("adapter"):
        found |= {"lora_dropout": 0.0}
    if given.get("adapter") == "qlora" and given.get("load_in_4bit"):
        found |= {"use_bnb_nested_quant": True}
    return found
