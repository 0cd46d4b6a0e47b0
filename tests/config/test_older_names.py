"""Names of TRL 0.14 to 1.16 and of transformers 4.40 to 5.23: each is a field, or says what to write instead."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from posttrain.config.methods import METHODS
from posttrain.errors import ConfigError


def words(text: str) -> list[str]:
    """The words of a text, one name each."""
    return text.split()


# What TrainingArguments had in some version between 4.40 and 5.23.
TRAINING = words("""
output_dir overwrite_output_dir do_train do_eval do_predict eval_strategy evaluation_strategy
prediction_loss_only per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size
per_gpu_eval_batch_size gradient_accumulation_steps eval_accumulation_steps eval_delay torch_empty_cache_steps
learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps
lr_scheduler_type lr_scheduler_kwargs warmup_ratio warmup_steps log_level log_level_replica log_on_each_node
logging_dir logging_strategy logging_first_step logging_steps logging_nan_inf_filter save_strategy save_steps
save_total_limit save_safetensors save_on_each_node save_only_model restore_callback_states_from_checkpoint
no_cuda use_cpu use_mps_device seed data_seed jit_mode_eval use_ipex bf16 fp16 fp16_opt_level
half_precision_backend bf16_full_eval fp16_full_eval tf32 local_rank ddp_backend xpu_backend tpu_num_cores
tpu_metrics_debug debug dataloader_drop_last eval_steps dataloader_num_workers dataloader_prefetch_factor
past_index run_name disable_tqdm remove_unused_columns label_names load_best_model_at_end metric_for_best_model
greater_is_better ignore_data_skip fsdp fsdp_min_num_params fsdp_config tp_size
fsdp_transformer_layer_cls_to_wrap accelerator_config parallelism_config deepspeed label_smoothing_factor optim
optim_args optim_target_modules adafactor group_by_length length_column_name report_to project trackio_space_id
ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers dataloader_pin_memory
dataloader_persistent_workers skip_memory_metrics use_legacy_prediction_loop push_to_hub resume_from_checkpoint
hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision gradient_checkpointing
gradient_checkpointing_kwargs include_inputs_for_metrics include_for_metrics eval_do_concat_batches fp16_backend
push_to_hub_model_id push_to_hub_organization push_to_hub_token mp_parameters auto_find_batch_size
full_determinism torchdynamo ray_scope ddp_timeout torch_compile torch_compile_backend torch_compile_mode
dispatch_batches split_batches include_tokens_per_second include_num_input_tokens_seen neftune_noise_alpha
batch_eval_metrics eval_on_start use_liger_kernel liger_kernel_config eval_use_gather_object
average_tokens_across_devices sharded_ddp use_cache enable_jit_checkpoint evaluate_during_training
""")

# What TRL's configurations had of their own in some version between 0.14 and 1.16.
PAIRS = words("""
beta max_length max_prompt_length max_completion_length label_pad_token_id padding_value truncation_mode
disable_dropout generate_during_eval is_encoder_decoder model_init_kwargs dataset_num_proc
""")
REFERENCE = words("""
precompute_ref_log_probs precompute_ref_batch_size ref_model_init_kwargs model_adapter_name ref_adapter_name
force_use_ref_model base_model_attribute_name use_liger_loss pad_token activation_offloading
""")
OWN = {
    "sft": words("""
    model_init_kwargs chat_template_path dataset_text_field dataset_kwargs dataset_num_proc eos_token pad_token
    max_length max_seq_length packing packing_strategy padding_free pad_to_multiple_of eval_packing
    completion_only_loss assistant_only_loss loss_type activation_offloading use_liger dataset_batch_size
    num_of_sequences chars_per_token shuffle_dataset trust_remote_code
    """),
    "dpo": [*PAIRS, *REFERENCE, *words("""
    label_smoothing loss_type loss_weights use_weighting padding_side max_target_length reference_free
    f_divergence_type f_alpha_divergence_coef sync_ref_model ref_model_mixup_alpha ref_model_sync_steps
    rpo_alpha discopop_tau use_num_logits_to_keep use_logits_to_keep tools ld_alpha
    """)],
    "reward": words("""
    max_length disable_dropout dataset_num_proc center_rewards_coefficient model_init_kwargs chat_template_path
    eos_token pad_token pad_to_multiple_of activation_offloading max_seq_length
    """),
    "kto": [*PAIRS, *REFERENCE, *["loss_type", "desirable_weight", "undesirable_weight"]],
    "bco": [*PAIRS, "prompt_sample_size", "min_density_ratio", "max_density_ratio", "precompute_ref_log_probs"],
    "cpo": [*PAIRS, "label_smoothing", "loss_type", "cpo_alpha", "simpo_gamma", "alpha"],
    "orpo": PAIRS,
    "grpo": words("""
    model_init_kwargs disable_dropout cast_lm_head_to_fp32 max_prompt_length num_generations
    num_generations_eval max_completion_length ds3_gather_for_generation shuffle_dataset temperature top_p top_k
    min_p repetition_penalty cache_implementation generation_kwargs chat_template_kwargs use_vllm vllm_mode
    vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_gpu_memory_utilization
    vllm_tensor_parallel_size vllm_max_model_len vllm_max_model_length vllm_enable_sleep_mode
    vllm_guided_decoding_regex vllm_structured_outputs_regex vllm_device vllm_dtype vllm_enable_prefix_caching
    vllm_group_port vllm_model_impl vllm_importance_sampling_correction vllm_importance_sampling_cap
    vllm_importance_sampling_mode beta num_iterations epsilon epsilon_high delta importance_sampling_level
    reward_weights scale_rewards loss_type mask_truncated_completions sync_ref_model ref_model_mixup_alpha
    ref_model_sync_steps top_entropy_quantile use_liger_loss log_completions num_completions_to_print
    wandb_log_unique_prompts log_unique_prompts generation_batch_size steps_per_generation
    use_transformers_paged pad_token trust_remote_code
    """),
    "ppo": words("""
    num_mini_batches total_episodes local_rollout_forward_batch_size num_sample_generations response_length
    stop_token stop_token_id temperature missing_eos_penalty sft_model_path world_size num_total_batches
    micro_batch_size local_batch_size batch_size local_mini_batch_size mini_batch_size exp_name
    reward_model_path num_ppo_epochs whiten_rewards kl_coef kl_estimator cliprange vf_coef cliprange_value gamma
    lam ppo_epochs init_kl_coef adap_kl_ctrl target horizon
    """),
}  # fmt: skip
# What TRL's scripts take beside: ModelConfig and ScriptArguments.
SCRIPT = words("""
model_name_or_path model_revision dtype torch_dtype trust_remote_code attn_implementation use_peft lora_r
lora_alpha lora_dropout lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type
use_rslora use_dora load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage
dataset_name dataset_config dataset_train_split dataset_test_split gradient_checkpointing_use_reentrant
ignore_bias_buffers datasets
""")


@pytest.mark.parametrize("method", OWN)
def test_no_name_of_another_version_is_a_typing_error(method: str) -> None:
    shape = METHODS[method].fields
    tables = (shape.model_fields, shape.renamed, shape.fixed, shape.no_effect, shape.unsupported)
    known = {name for table in tables for name in table}
    assert not {*TRAINING, *OWN[method], *SCRIPT} - known


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("sft", {"evaluation_strategy": "no"}, {"eval_strategy": "no"}),
        ("sft", {"no_cuda": True}, {"use_cpu": True}),
        ("sft", {"per_gpu_train_batch_size": 2}, {"per_device_train_batch_size": 2}),
        ("sft", {"warmup_ratio": 0.03}, {"warmup_steps": 0.03}),
        ("sft", {"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        ("sft", {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ("sft", {"max_seq_length": 64}, {"max_length": 64}),
        ("sft", {"adafactor": True}, {"optim": "adafactor"}),
        ("sft", {"push_to_hub_model_id": None}, {"hub_model_id": None}),
        ("sft", {"gradient_checkpointing_use_reentrant": False},
         {"gradient_checkpointing_kwargs": {"use_reentrant": False}}),
        ("sft", {"dispatch_batches": None, "split_batches": False, "mp_parameters": "", "torchdynamo": None}, {}),
        ("sft", {"dataset_name": "rows.jsonl"}, {"train_dataset": "rows.jsonl"}),
        ("dpo", {"max_prompt_length": 64, "label_pad_token_id": -100, "base_model_attribute_name": "model"}, {}),
        ("reward", {"max_seq_length": 64}, {"max_length": 64}),
        ("ppo", {"response_length": 32}, {"max_completion_length": 32}),
        ("ppo", {"ppo_epochs": 2, "init_kl_coef": 0.1}, {"num_ppo_epochs": 2, "kl_coef": 0.1}),
    ],
)  # fmt: skip
def test_an_old_name_sets_the_new_one_and_says_so(method: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    shape = METHODS[method].fields
    needed = {"model": "m", "train_dataset": "d.jsonl", **({"reward_funcs": ["r"]} if method == "ppo" else {})}
    expected = shape.from_values({**needed, **new})
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        made = shape.from_values({**{name: value for name, value in needed.items() if name not in new}, **old})
    assert made == expected
    said = [str(note.message) for note in notes if issubclass(note.category, FutureWarning)]
    assert len(said) == len(old)
    for name in new:
        assert any(name in text for text in said), name


@pytest.mark.parametrize(
    ("method", "name", "said"),
    [
        ("sft", "push_to_hub_organization", "hub_model_id="),
        ("sft", "datasets", "write train_dataset"),
        ("sft", "max_prompt_length", "write max_length"),
        ("dpo", "tools", "a column tools"),
        ("dpo", "dataset_text_field", "chosen and rejected"),
        ("orpo", "label_smoothing", "leave it out"),
        ("ppo", "mini_batch_size", "num_mini_batches"),
        ("ppo", "world_size", "torchrun"),
    ],
)
def test_a_name_that_cannot_be_taken_says_what_to_write(method: str, name: str, said: str) -> None:
    shape = METHODS[method].fields
    with pytest.raises(ConfigError) as caught:
        shape.from_values({"model": "m", "train_dataset": "d.jsonl", "reward_funcs": ["r"], name: "x"})
    assert said in str(caught.value)
