"""The names of TRL's GRPO, of its older versions and of its tutorials that are no fields of `GRPOConfig`.

The tables are read as those of `posttrain/config/names.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.config.names import (
    TRAINING_FIXED,
    TRAINING_NO_EFFECT,
    TRAINING_RENAMED,
    TRAINING_UNSUPPORTED,
    Fixed,
    Renamed,
    gone,
)

_GRADED = "evaluation answers the prompts of eval_dataset and grades the answers"
_NO_ROWS = "completions are there only once they are sampled"

# of training on a dataset, where they are fields
ROLLOUT_FIXED: Mapping[str, Fixed] = {
    "ignore_data_skip": Fixed(values=(False,), reason="a resumed run goes on inside the rollout that it stopped in"),
    "prediction_loss_only": Fixed(values=(False,), reason=_GRADED),
    "bf16_full_eval": Fixed(values=(False,), reason=_GRADED),
    "fp16_full_eval": Fixed(values=(False,), reason=_GRADED),
    "batch_eval_metrics": Fixed(values=(False,), reason=_GRADED),
    "neftune_noise_alpha": Fixed(
        values=(None, 0, 0.0), reason="completions are drawn without noise, and trained on as they were drawn"
    ),
}
ROLLOUT_NO_EFFECT: Mapping[str, str] = {
    "per_device_eval_batch_size": "rollout_batch_size says how many completions are decoded at once",
    "eval_do_concat_batches": _GRADED,
    "include_for_metrics": _GRADED,
    "length_column_name": _NO_ROWS,
    "dataset_num_proc": "prompts are tokenised in batches by one process, which is fast enough",
    "dataloader_num_workers": _NO_ROWS,
    "dataloader_prefetch_factor": _NO_ROWS,
}

_NEVER_CUT = "prompts are never cut, as in TRL 1.16; one that leaves no room for an answer is an error before training"

GRPO_RENAMED: Mapping[str, Renamed] = {
    **TRAINING_RENAMED,
    "shuffle_dataset": Renamed(
        apply=lambda value: {"train_sampling_strategy": "random" if value else "sequential"},
    ),
    "per_gpu_eval_batch_size": gone(ROLLOUT_NO_EFFECT["per_device_eval_batch_size"]),
    "max_prompt_length": gone(_NEVER_CUT),
    "wandb_log_unique_prompts": gone("every completion is in samples.jsonl with its prompt"),
}

_SAMPLER = "completions are drawn by the sampler of this package, with the weights that are being trained"
_LOSSES = "it takes effect only with a loss that is not offered"
_VLLM = "it takes effect only with use_vllm, which is off"
_ADAPTIVE = "it takes effect only with use_adaptive_entropy, which is off"
_SYNC = "it takes effect only with sync_ref_model, which is off"

GRPO_FIXED: Mapping[str, Fixed] = {
    **TRAINING_FIXED,
    **ROLLOUT_FIXED,
    "disable_dropout": Fixed(
        values=(True,),
        reason="dropout is off in training and sampling alike, or the log-probabilities of a completion would be of "
        "another model than the one that wrote it",
    ),
    "use_vllm": Fixed(values=(False,), reason=_SAMPLER),
    "use_transformers_continuous_batching": Fixed(values=(False,), reason=_SAMPLER),
    "transformers_continuous_batching_config": Fixed(values=(None,), reason=_SAMPLER),
    "use_transformers_paged": Fixed(values=(False,), reason=_SAMPLER),
    "cache_implementation": Fixed(values=(None,), reason=_SAMPLER),
    "multi_objective_aggregation": Fixed(
        values=("sum_then_normalize",), reason="the weighted sum of the rewards is normalised, not each reward alone"
    ),
    "sync_ref_model": Fixed(
        values=(False,), reason="the reference stays the model as it was when the trainer was made"
    ),
    "top_entropy_quantile": Fixed(values=(1, 1.0), reason="every token of a completion is trained"),
    "use_adaptive_entropy": Fixed(values=(False,), reason="entropy_coef stays as it is set"),
    "off_policy_mask_threshold": Fixed(
        values=(None,), reason="clipping alone bounds how far a completion may be off policy; lower num_iterations"
    ),
    "cast_lm_head_to_fp32": Fixed(
        values=(False,),
        reason='log-probabilities are computed in float32 from the logits; dtype="float32" has all weights in it',
    ),
    "max_tool_calling_iterations": Fixed(values=(None,), reason="a completion is one answer, without tools"),
    "log_unique_prompts": Fixed(values=(False,), reason="every completion is in samples.jsonl with its prompt"),
    "log_completions_hub_repo": Fixed(values=(None,), reason="nothing is uploaded; samples.jsonl is in output_dir"),
}

GRPO_NO_EFFECT: Mapping[str, str] = {
    **TRAINING_NO_EFFECT,
    **ROLLOUT_NO_EFFECT,
    "log_multimodal": "completions are text",
    "ds3_gather_for_generation": "DeepSpeed is not used",
    "ref_model_mixup_alpha": _SYNC,
    "ref_model_sync_steps": _SYNC,
    "entropy_coef_min": _ADAPTIVE,
    "entropy_coef_max": _ADAPTIVE,
    "entropy_coef_delta": _ADAPTIVE,
    "entropy_target": _ADAPTIVE,
    **dict.fromkeys(
        (
            "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg",
            "vespo_lambda_neg",
        ),
        _LOSSES,
    ),
    **dict.fromkeys(
        (
            "vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex",
            "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
            "vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size",
            "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
            "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min", "vllm_importance_sampling_cap",
            # of older versions
            "vllm_device", "vllm_dtype", "vllm_max_model_len", "vllm_enable_prefix_caching",
            "vllm_guided_decoding_regex",
        ),
        _VLLM,
    ),
}  # fmt: skip

_OF_THE_TRAINER = "it belongs to the trainer: GRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=...)"

GRPO_UNSUPPORTED: Mapping[str, str] = {
    **TRAINING_UNSUPPORTED,
    "reward_funcs": _OF_THE_TRAINER,
    "reward_func": _OF_THE_TRAINER,
    "reward_processing_classes": "a reward is a function here; load the model inside it",
    "ref_model": "the reference is the model as it is when the trainer is made; leave it out",
    "ref_model_init_kwargs": "the reference is the model as it is when the trainer is made; leave it out",
    "max_length": "write max_completion_length; " + _NEVER_CUT,
    "max_seq_length": "write max_completion_length; " + _NEVER_CUT,
    "max_new_tokens": "write max_completion_length",
    "dataset_text_field": "it belongs to SFT; rows have a column prompt, and the columns that the rewards read",
    "packing": "it belongs to SFT; leave it out",
}
