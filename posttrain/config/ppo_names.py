"""The names of TRL's PPO, of its older versions and of GRPO that are no fields of `PPOConfig`.

The tables are read as those of `posttrain/config/names.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.config.grpo_names import GRPO_FIXED, GRPO_NO_EFFECT, GRPO_RENAMED, GRPO_UNSUPPORTED
from posttrain.config.names import Fixed, Renamed, gone, now

PPO_RENAMED: Mapping[str, Renamed] = {
    **GRPO_RENAMED,
    "response_length": now("max_completion_length"),
    "local_rollout_forward_batch_size": gone("max_tokens_per_pass says what one pass takes"),
    "exp_name": now("run_name"),
    # of TRL before 0.12
    "ppo_epochs": now("num_ppo_epochs"),
    "init_kl_coef": now("kl_coef"),
    "target": now("kl_target"),
    "horizon": now("kl_horizon"),
    "target_kl": now("early_stop_kl"),
    "log_with": gone("metrics are always written to metrics.jsonl in output_dir"),
    "tracker_project_name": gone("metrics are always written to metrics.jsonl in output_dir"),
}

_ADAPTERS = "the reference is the adapter as it is when the trainer is made; name no other"
_SCORES = "scores are used as the rewards give them; whiten_rewards=True scales those of all tokens"

PPO_FIXED: Mapping[str, Fixed] = {
    **{
        name: entry
        for name, entry in GRPO_FIXED.items()
        if name not in ("multi_objective_aggregation", "use_adaptive_entropy", "off_policy_mask_threshold")
    },
    "model_adapter_name": Fixed(values=(None,), reason=_ADAPTERS),
    "ref_adapter_name": Fixed(values=(None,), reason=_ADAPTERS),
    "use_score_scaling": Fixed(values=(False,), reason=_SCORES),
    "use_score_norm": Fixed(values=(False,), reason=_SCORES),
    "score_clip": Fixed(values=(None,), reason=_SCORES),
    "stop_token": Fixed(values=(None, "eos"), reason="completions end at the tokens that end a turn of the model"),
    "stop_token_id": Fixed(values=(None,), reason="completions end at the tokens that end a turn of the model"),
}

PPO_NO_EFFECT: Mapping[str, str] = GRPO_NO_EFFECT

_ROLLOUT = (
    "a rollout is per_device_train_batch_size x gradient_accumulation_steps x num_mini_batches completions on each "
)
_ROLLOUT += "process; write num_mini_batches"
_STEPS = "write max_steps (optimiser steps) or num_train_epochs (passes over the prompts)"
_GROUPS = "it belongs to GRPO, which compares the completions of a group; the value model is the baseline here"
_OF_THE_TRAINER = "it belongs to the trainer: PPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=...)"
_PATH = "it belongs to the trainer: PPOTrainer(model=..., reward_funcs=..., ref_model=..., value_model=...)"

PPO_UNSUPPORTED: Mapping[str, str] = {
    **GRPO_UNSUPPORTED,
    "reward_funcs": _OF_THE_TRAINER,
    "reward_func": _OF_THE_TRAINER,
    "reward_model": _PATH,
    "reward_model_path": _PATH,
    "sft_model_path": _PATH,
    "ref_model": _PATH,
    "value_model": _PATH,
    "ref_model_init_kwargs": "load the reference and pass it as ref_model",
    "beta": "the KL is in the rewards here, never in the loss too; write kl_coef",
    "epsilon": "write cliprange",
    "epsilon_high": "the ratio is clipped by cliprange on both sides",
    "delta": "the ratio is clipped by cliprange on both sides",
    "use_bias_correction_kl": "the KL is in the rewards here and has no gradient of its own",
    "num_iterations": "write num_ppo_epochs",
    **dict.fromkeys(
        ("steps_per_generation", "generation_batch_size", "batch_size", "mini_batch_size", "backward_batch_size",
         "local_batch_size", "micro_batch_size", "local_mini_batch_size", "forward_batch_size"), _ROLLOUT
    ),
    **dict.fromkeys(("total_episodes", "num_total_batches", "steps"), _STEPS),
    **dict.fromkeys(
        ("scale_rewards", "advantage_baseline", "loss_type", "importance_sampling_level", "dynamic_sampling",
         "max_resamples", "multi_objective_aggregation"), _GROUPS
    ),
    "world_size": "torchrun says it; leave it out",
    "num_sample_generations": "every completion is in samples.jsonl; pass an eval_dataset and write eval_steps",
    "adap_kl_ctrl": "kl_target makes kl_coef adaptive; leave it out for a fixed one",
    "kl_penalty": "write kl_estimator: k1 is its 'kl', k2 its 'mse'",
    "early_stopping": "write early_stop_kl, the KL at which the passes over a rollout end",
    "ratio_threshold": "write early_stop_kl, the KL at which the passes over a rollout end",
}  # fmt: skip
