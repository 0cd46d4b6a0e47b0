"""Which test observes the effect of a field of TRL's; docs/fields.md is made of it (scripts/fields_table.py)."""

from __future__ import annotations

from collections.abc import Mapping

_RUN, _MACHINE, _DATA = (f"tests/trainers/test_{name}_fields.py::test_" for name in ("run", "machine", "dataset"))
_PROCESSES, _OPTIMIZERS = "tests/engine/test_two_processes.py::test_", "tests/engine/test_optimizers.py::test_"
_SFT, _BEST = "tests/trainers/test_sft_options.py::test_", "tests/trainers/test_best_checkpoint.py::test_"
_TRACKING, _HUB = "tests/trainers/test_tracking.py::test_", "tests/trainers/test_publishing.py::test_"
_PAIRS = "tests/trainers/test_preference_trainers.py::test_"

_RATE = _RUN + "the_learning_rate_follows_its_schedule"
_ADAM = _OPTIMIZERS + "adam_s_fields_and_weight_decay_reach_it"
_ROWS = _RUN + "what_rows_train_follows_their_fields"
_CHECKPOINTS = _RUN + "checkpoints_are_written_where_and_when_they_are_asked_for"
_LOGS = _RUN + "logs_are_shown_when_they_are_asked_for"
_EVALUATIONS = _RUN + "evaluations_are_made_when_they_are_asked_for"
_STEPS = _RUN + "a_run_has_so_many_epochs_or_steps_and_leaves_out_a_rest"
_AGAIN = _RUN + "activations_are_computed_again_with_the_arguments_given"
_ORDER = _RUN + "the_order_of_rows_follows_the_seed_of_the_data_and_the_rest_the_seed"
_DPO = _RUN + "each_field_of_preference_training_reaches_the_loss"
_AHEAD = _DATA + "so_many_batches_are_laid_out_when_the_first_is_given_out"
_WANDB = _TRACKING + "a_tracker_that_fails_is_said_once_and_counted_and_the_run_is_the_same"
_UPLOADS = _HUB + "hub_strategy_says_what_is_uploaded_of_a_run"

OBSERVED: Mapping[str, str] = {
    "output_dir": _RUN + "the_run_s_directory_and_name_are_those_given",
    "run_name": _WANDB,
    "per_device_train_batch_size": _RUN + "rows_of_a_step_are_batch_size_times_accumulation",
    "gradient_accumulation_steps": _RUN + "rows_of_a_step_are_batch_size_times_accumulation",
    "num_train_epochs": _STEPS,
    "max_steps": _STEPS,
    "dataloader_drop_last": _STEPS,
    "learning_rate": _RATE,
    "lr_scheduler_type": _RATE,
    "lr_scheduler_kwargs": _RATE,
    "warmup_steps": _RATE,
    "max_grad_norm": _RUN + "gradients_are_clipped_to_the_norm_named",
    "optim": _OPTIMIZERS + "each_optimiser_takes_its_own_step",
    "optim_args": _OPTIMIZERS + "arguments_of_the_optimiser_reach_it",
    "optim_target_modules": _OPTIMIZERS + "galore_projects_the_layers_named_and_updates_in_their_subspace",
    "weight_decay": _ADAM,
    "adam_beta1": _ADAM,
    "adam_beta2": _ADAM,
    "adam_epsilon": _ADAM,
    "bf16": _RUN + "a_run_computes_in_bfloat16_or_not",
    "fp16": _MACHINE + "float16_gives_the_same_losses_to_its_rounding_and_is_resumed_with_its_scale",
    "tf32": _MACHINE + "tf32_sets_what_cuda_may_do",
    "gradient_checkpointing": _AGAIN,
    "gradient_checkpointing_kwargs": _AGAIN,
    "activation_checkpointing": _AGAIN,
    "activation_checkpointing_kwargs": _AGAIN,
    "torch_compile": _MACHINE + "the_layers_are_compiled_and_compute_the_same",
    "torch_compile_backend": _MACHINE + "the_layers_are_compiled_and_compute_the_same",
    "torch_compile_mode": _MACHINE + "a_mode_that_torch_does_not_have_is_refused",
    "use_cache": _MACHINE + "use_cache_is_written_into_the_saved_configuration",
    "torch_empty_cache_steps": _MACHINE + "memory_of_cuda_is_given_back_every_so_many_steps",
    "auto_find_batch_size": "tests/engine/test_step.py::test_out_of_memory_ends_the_run_where_passes_are_not_to_be_cut",
    "full_determinism": _MACHINE + "full_determinism_holds_during_the_run_and_not_after",
    "skip_memory_metrics": _MACHINE + "memory_is_reported_where_it_is_asked_for",
    "debug": _MACHINE + "debug_stops_at_the_first_module_whose_numbers_are_not_finite",
    "use_cpu": _RUN + "the_device_is_the_cpu_where_that_is_asked_for",
    "seed": _ORDER,
    "data_seed": _ORDER,
    "train_sampling_strategy": _RUN + "rows_come_as_given_shuffled_or_grouped_by_length",
    "length_column_name": _DATA + "rows_are_grouped_by_a_column_of_lengths_where_there_is_one",
    "dataloader_num_workers": _AHEAD,
    "dataloader_prefetch_factor": _AHEAD,
    "ignore_data_skip": _DATA + "a_resumed_run_goes_on_where_it_stood_or_begins_its_epoch_anew",
    "logging_strategy": _LOGS,
    "logging_steps": _LOGS,
    "logging_first_step": _LOGS,
    "logging_nan_inf_filter": _MACHINE + "a_loss_that_is_not_finite_is_shown_where_the_filter_is_off",
    "include_num_input_tokens_seen": _MACHINE + "tokens_seen_are_shown_by_transformers_name_where_asked_for",
    "log_level": _MACHINE + "a_level_of_warnings_keeps_the_run_from_talking_and_not_from_warning",
    "log_level_replica": _PROCESSES + "the_first_process_speaks_and_the_others_only_where_their_level_says_so",
    "disable_tqdm": _RUN + "a_bar_is_shown_unless_it_is_not_wanted",
    "report_to": _WANDB,
    "project": _WANDB,
    "eval_strategy": _EVALUATIONS,
    "eval_steps": _EVALUATIONS,
    "eval_on_start": _EVALUATIONS,
    "eval_delay": _BEST + "eval_delay_leaves_out_the_first_evaluations",
    "per_device_eval_batch_size": _DATA + "an_evaluation_pass_holds_so_many_rows_and_gives_the_same",
    "prediction_loss_only": _DATA + "the_loss_alone_is_returned_where_that_is_asked_for",
    "bf16_full_eval": _DATA + "an_evaluation_in_half_precision_computes_in_it_and_training_does_not",
    "fp16_full_eval": _DATA + "an_evaluation_in_half_precision_computes_in_it_and_training_does_not",
    "include_for_metrics": _DATA + "compute_metrics_is_given_inputs_and_losses_where_they_are_named",
    "batch_eval_metrics": _DATA + "metrics_are_computed_batch_by_batch_or_on_a_list_of_batches",
    "eval_do_concat_batches": _DATA + "metrics_are_computed_batch_by_batch_or_on_a_list_of_batches",
    "save_strategy": _CHECKPOINTS,
    "save_steps": _CHECKPOINTS,
    "save_only_model": _CHECKPOINTS,
    "save_total_limit": _CHECKPOINTS,
    "load_best_model_at_end": _BEST + "load_best_model_at_end_loads_the_best_and_the_limit_keeps_it",
    "metric_for_best_model": _BEST + "metric_for_best_model_and_greater_is_better_say_which_is_the_best",
    "greater_is_better": _BEST + "metric_for_best_model_and_greater_is_better_say_which_is_the_best",
    "resume_from_checkpoint": _RUN + "a_run_is_resumed_from_the_checkpoint_that_its_field_names",
    "restore_callback_states_from_checkpoint": (
        "tests/trainers/test_callbacks.py::test_a_resumed_run_gives_callbacks_their_state_unless_told_not_to"
    ),
    "enable_jit_checkpoint": _MACHINE + "sigterm_saves_and_ends_the_run_unless_it_is_left_alone",
    "do_train": "tests/cli/test_do_train.py::test_the_command_trains_evaluates_or_both",
    "do_eval": "tests/cli/test_do_train.py::test_the_command_trains_evaluates_or_both",
    "average_tokens_across_devices": (
        _PROCESSES + "a_step_is_divided_by_the_tokens_of_all_processes_or_each_by_its_own"
    ),
    "accelerator_config": _PROCESSES + "the_batch_size_counts_rows_of_each_process_or_of_all",
    "ddp_backend": _PROCESSES + "backend_and_patience_are_those_named",
    "ddp_timeout": _PROCESSES + "backend_and_patience_are_those_named",
    "ddp_find_unused_parameters": (
        _PROCESSES + "parameters_that_a_pass_leaves_unused_are_looked_for_where_that_is_asked"
    ),
    "ddp_bucket_cap_mb": _PROCESSES + "gradients_are_exchanged_in_buckets_of_the_size_named",
    "ddp_broadcast_buffers": _PROCESSES + "buffers_are_each_process_s_own_where_they_are_not_broadcast",
    "ddp_static_graph": _PROCESSES + "a_graph_that_is_promised_to_stay_may_leave_parameters_unused",
    "model_init_kwargs": "tests/trainers/test_trainers.py::test_dtype_may_be_that_of_the_files_and_is_said_once",
    "trust_remote_code": _RUN + "code_that_comes_with_a_model_is_run_where_it_is_trusted",
    # rows of SFT
    "max_length": _ROWS,
    "truncation_mode": _ROWS,
    "dataset_text_field": _ROWS,
    "completion_only_loss": _ROWS,
    "assistant_only_loss": _ROWS,
    "loss_type": _SFT + "loss_type",
    "label_smoothing_factor": _SFT + "label_smoothing_factor",
    "neftune_noise_alpha": _SFT + "neftune_noise_alpha",
    "packing": _SFT + "packing",
    "packing_strategy": _SFT + "packing_strategy",
    "eval_packing": _SFT + "eval_packing",
    "padding_free": _SFT + "padding_free",
    "shuffle_dataset": _SFT + "shuffle_dataset",
    "dataset_num_proc": _SFT + "dataset_num_proc",
    "dataset_kwargs": _SFT + "dataset_kwargs",
    "eos_token": _SFT + "eos_token",
    "pad_token": _SFT + "pad_token",
    "chat_template_path": _SFT + "chat_template_path",
    # of DPO
    "beta": _DPO,
    "loss_weights": _DPO,
    "ld_alpha": _DPO,
    "f_divergence_type": _DPO,
    "f_alpha_divergence_coef": _DPO,
    "label_smoothing": _DPO,
    "use_weighting": _DPO,
    "discopop_tau": _DPO,
    "sync_ref_model": _DPO,
    "ref_model_mixup_alpha": _DPO,
    "ref_model_sync_steps": _DPO,
    "disable_dropout": _DPO,
    "precompute_ref_log_probs": _DATA + "a_reference_is_asked_at_each_step_and_gives_the_same",
    "precompute_ref_batch_size": _DATA + "the_reference_is_asked_so_many_pairs_at_a_time",
    # uploads, to a hub of the test's own
    "push_to_hub": _UPLOADS,
    "hub_model_id": _HUB + "a_saved_model_is_uploaded_with_its_card_to_the_branch_asked_for",
    "hub_token": _HUB + "the_token_is_in_no_file_of_the_run",
    "hub_strategy": _UPLOADS,
    "hub_private_repo": _UPLOADS,
    "hub_revision": _HUB + "a_saved_model_is_uploaded_with_its_card_to_the_branch_asked_for",
    "hub_always_push": _HUB + "an_upload_that_fails_is_said_and_counted_and_the_run_is_whole",
}

_FOUR = "tests/trainers/test_trainers.py::test_dpo_learns_eight_pairs"
_LEARNS = _PAIRS + "every_loss_learns_eight_pairs"

OBSERVED_LOSSES: Mapping[str, Mapping[str, str]] = {
    "SFTConfig": dict.fromkeys(("nll", "dft", "chunked_nll"), _SFT + "loss_type"),
    "DPOConfig": {
        **dict.fromkeys(("sigmoid", "ipo", "hinge", "robust", "sft"), _FOUR),
        **dict.fromkeys(
            ("sigmoid_norm", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"),
            _LEARNS,
        ),
    },
}
