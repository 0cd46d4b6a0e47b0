"""The keys of a LLaMA-Factory training file, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.imports.translation import (
    File,
    Key,
    NotCarriedError,
    chat_template,
    idle,
    lost,
    read_elsewhere,
    sets,
    to,
)

METHODS_OF = {"pt": "sft", "sft": "sft", "rm": "reward", "ppo": "ppo", "dpo": "dpo", "kto": "kto"}  # by stage
_PAIR_METHODS = {"orpo": "orpo", "simpo": "cpo"}  # by pref_loss, where it is no loss of DPO


def method_of(given: File) -> str:
    """The method that does what the stage and its loss ask for; "" for a stage that is unknown."""
    stage = str(given.get("stage") or "sft")
    if stage == "dpo" and (method := _PAIR_METHODS.get(str(given.get("pref_loss")))):
        return method
    return METHODS_OF.get(stage, "")


def names(value: Any) -> list[str]:
    """The names in a text with commas, or in a list."""
    items = value.split(",") if isinstance(value, str) else value
    return [str(item).strip() for item in items if str(item).strip()]


def _pref_loss(value: Any, given: File) -> dict[str, Any]:
    if value == "simpo":
        return {"loss_type": "simpo"}
    if value == "orpo":
        return {}
    weight = given.get("pref_ftx") or 0
    return {"loss_type": [value, "sft"], "loss_weights": [1.0, float(weight)]} if weight else {"loss_type": [value]}


def _pref_ftx(value: Any, given: File) -> dict[str, Any]:
    if not value:
        return {}
    if given.get("pref_loss") == "simpo":
        return {"cpo_alpha": float(value)}
    if given.get("pref_loss") == "orpo":
        raise NotCarriedError("ORPO has the likelihood of the chosen answer already, with weight 1")
    return {"loss_type": [given.get("pref_loss") or "sigmoid", "sft"], "loss_weights": [1.0, float(value)]}


def _finetuning(value: Any, given: File) -> dict[str, Any]:
    if value not in ("lora", "full"):
        raise NotCarriedError("all weights are trained, or a LoRA adapter (use_peft)")
    return {"use_peft": value == "lora"}


def _quantisation(value: Any, given: File) -> dict[str, Any]:
    if value not in (4, 8):
        raise NotCarriedError("weights are quantised to 4 or 8 bits")
    return {f"load_in_{value}bit": True}


def _train_on_prompt(value: Any, given: File) -> dict[str, Any]:
    return {"assistant_only_loss": False} if value else {}


def _pissa(value: Any, given: File) -> dict[str, Any]:
    rounds = given.get("pissa_iter", 16)
    return {"lora_init": "pissa" if rounds == -1 else f"pissa_niter_{rounds}"} if value else {}


def _lora_only(name: str) -> Any:
    """A field of the adapter, which full fine-tuning does not read."""
    return lambda value, given: {name: value} if given.get("finetuning_type", "lora") == "lora" else {}


def _of_ppo(name: str) -> Any:
    """A field of sampling, which only PPO reads: elsewhere it is for LLaMA-Factory's own evaluation."""
    return lambda value, given: {name: value} if given.get("stage") == "ppo" else {}


_SPEED = "it is another way to compute the same"
_OWN_OPTIMISER = "this optimiser is not offered; optim names those that are"
_IMAGES = "only text is trained"
_ANSWERS = "answers are generated and measured by posttrain evaluate"
_CACHE = "rows are rendered and tokenised anew, which takes seconds"
_HUB = "it is read from the environment"
_EXPORT = "the trained model is an ordinary directory; adapters are merged after the run"

KEYS: Mapping[str, Key] = {
    # the model
    "model_name_or_path": to("model"),
    "adapter_name_or_path": lost("an adapter is a model here: write its directory as model, without use_peft"),
    "model_revision": sets(lambda value, _: {"model_init_kwargs": {"revision": value}} if value != "main" else {}),
    "trust_remote_code": to("trust_remote_code"),
    "rope_scaling": lost("set rope_parameters in the model's config.json"),
    "resize_vocab": idle("embeddings grow when tokens are added, and not otherwise"),
    "add_tokens": to("add_tokens", names),
    "add_special_tokens": to("add_special_tokens", names),
    "split_special_tokens": lost("special tokens are one token each"),
    "shift_attn": lost("attention is that of the model"),
    "mixture_of_depths": lost("models are trained as they are"),
    "train_from_scratch": lost("a pretrained model is trained"),
    "moe_aux_loss_coef": to("router_aux_loss_coef"),
    "disable_gradient_checkpointing": sets(lambda value, _: {"gradient_checkpointing": False} if value else {}),
    "use_reentrant_gc": idle(_SPEED),
    "quantization_bit": sets(_quantisation),
    "quantization_type": to("bnb_4bit_quant_type"),
    "double_quantization": sets(
        lambda value, given: {"use_bnb_nested_quant": value} if given.get("quantization_bit") == 4 else {}
    ),
    "quantization_method": lost("weights are quantised by bitsandbytes", unless=("bnb", "bitsandbytes")),
    "quantization_device_map": lost("the device follows from the processes"),
    "pure_bf16": sets(lambda value, _: {"dtype": "bfloat16"} if value else {}),
    "upcast_layernorm": lost("all weights have the number type of dtype"),
    "upcast_lmhead_output": idle("log-probabilities are computed in float32"),
    **dict.fromkeys(
        ("flash_attn", "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_v1_kernels", "low_cpu_mem_usage",
         "use_fast_tokenizer", "use_kv_cache", "offload_folder"),
        idle(_SPEED),
    ),
    "fp8*": lost("float8 is not offered"),
    **dict.fromkeys(
        ("crop_to_patches", "use_audio_in_video", "media_dir", "freeze_vision_tower", "freeze_multi_modal_projector",
         "freeze_language_model"),
        idle(_IMAGES),
    ),
    **dict.fromkeys(("cache_dir", "hf_hub_token", "ms_hub_token", "om_hub_token"), idle(_HUB)),
    "export_*": idle(_EXPORT),
    # the data
    "dataset": read_elsewhere(),
    "eval_dataset": read_elsewhere(),
    "dataset_dir": read_elsewhere(),
    "mix_strategy": read_elsewhere(),
    "interleave_probs": read_elsewhere(),
    "template": sets(chat_template),
    "tool_format": lost("tools are rendered by the tokenizer's own chat template"),
    "default_system": lost("a system message is one of the rows' messages, or of the chat template"),
    "enable_thinking": lost("give rows a column chat_template_kwargs with enable_thinking", unless=(None, False)),
    "cutoff_len": sets(lambda value, given: {} if given.get("stage") == "ppo" else {"max_length": value}),
    "train_on_prompt": sets(_train_on_prompt),
    "mask_history": lost("every answer of a conversation is trained; leave the earlier ones to a column prompt"),
    "max_samples": to("train_rows"),
    "val_size": lost("no part of the rows is kept for evaluation: write them to a file of their own and name it in "
                     "eval_dataset"),
    "eval_on_each_dataset": lost("the evaluation data is measured as one"),
    "packing": sets(lambda value, _: {"packing": True} if value else {}),
    "neat_packing": sets(lambda value, _: {"packing": True} if value else {}),
    "ignore_pad_token_for_loss": idle("there are no pad tokens"),
    **dict.fromkeys(
        ("overwrite_cache", "preprocessing_batch_size", "preprocessing_num_workers", "tokenized_path",
         "data_shared_file_system", "buffer_size", "streaming"),
        idle(_CACHE),
    ),
    # what is trained
    "stage": read_elsewhere(),
    "do_train": read_elsewhere(),
    "finetuning_type": sets(_finetuning),
    "lora_rank": sets(_lora_only("lora_r")),
    "lora_alpha": sets(_lora_only("lora_alpha")),
    "lora_dropout": sets(_lora_only("lora_dropout")),
    "lora_target": sets(
        lambda value, given: _lora_only("lora_target_modules")("all-linear" if value == "all" else names(value), given)
    ),
    "additional_target": sets(lambda value, given: _lora_only("lora_modules_to_save")(names(value), given)),
    "use_rslora": sets(_lora_only("use_rslora")),
    "use_dora": sets(_lora_only("use_dora")),
    "pissa_init": sets(_pissa),
    "pissa_iter": read_elsewhere(),
    "pissa_convert": idle("an adapter is always saved so that it fits the base model"),
    "create_new_adapter": idle("use_peft makes a new adapter"),
    "loraplus_lr_ratio": lost("an adapter has one learning rate"),
    "loraplus_lr_embedding": lost("an adapter has one learning rate", unless=(1e-6,)),
    "use_dft_loss": sets(lambda value, _: {"loss_type": "dft"} if value else {}),
    **dict.fromkeys(
        ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "use_llama_pro", "use_mca"),
        lost(_OWN_OPTIMISER),
    ),
    "disable_shuffling": sets(lambda value, _: {"train_sampling_strategy": "sequential"} if value else {}),
    "early_stopping_steps": lost("pass transformers' EarlyStoppingCallback to the trainer, in Python"),
    "compute_accuracy": idle("the accuracy over tokens is always shown"),
    "plot_loss": idle("posttrain report shows the curves"),
    "include_effective_tokens_per_second": idle("tokens per second are shown anyway"),
    "print_param_status": idle("the start says what is trained"),
    # preferences
    "pref_beta": to("beta"),
    "pref_loss": sets(_pref_loss),
    "pref_ftx": sets(_pref_ftx),
    "pref_bco_weight": lost("it adds another loss to DPO's; loss_type takes several, and bco is a method of its own"),
    "dpo_label_smoothing": sets(lambda value, _: {"label_smoothing": value} if value else {}),
    "simpo_gamma": to("simpo_gamma"),
    "ld_alpha": to("ld_alpha"),
    "kto_chosen_weight": to("desirable_weight"),
    "kto_rejected_weight": to("undesirable_weight"),
    "ref_model": to("ref_model"),
    "ref_model_adapters": lost("write the adapter's directory as ref_model"),
    "ref_model_quantization_bit": lost("the reference has the number type of dtype"),
    # PPO
    "reward_model": to("reward_funcs", lambda value: [value]),
    "reward_model_adapters": lost("write the adapter's directory in reward_funcs"),
    "reward_model_quantization_bit": lost("a reward model has the number type of dtype"),
    "reward_model_type": lost("reward_funcs takes a reward model's directory, or file.py:function", unless=("full",)),
    "ppo_epochs": to("num_ppo_epochs"),
    "ppo_buffer_size": to("num_mini_batches"),
    "ppo_target": to("kl_target"),
    "ppo_whiten_rewards": to("whiten_rewards"),
    "ppo_score_norm": to("use_score_norm"),
    "temperature": sets(_of_ppo("temperature")),
    "top_p": sets(_of_ppo("top_p")),
    "top_k": sets(_of_ppo("top_k")),
    "max_new_tokens": sets(_of_ppo("max_completion_length")),
    "repetition_penalty": sets(_of_ppo("repetition_penalty")),
    **dict.fromkeys(
        ("predict_with_generate", "do_predict", "do_sample", "num_beams", "eval_num_beams", "length_penalty",
         "skip_special_tokens", "infer_backend", "infer_dtype", "vllm_maxlen", "vllm_gpu_util", "vllm_enforce_eager",
         "max_length"),
        idle(_ANSWERS),
    ),
    # the run
    "output_dir": read_elsewhere(),
    "resume_from_checkpoint": idle("posttrain run goes on with an interrupted stage by itself"),
    "use_swanlab": lost("report_to names the trackers that there are"),
    **dict.fromkeys(("swanlab_*", "galore_*", "apollo_*", "badam_*", "muon_*", "ray_*", "oft_*", "freeze_trainable_*"),
                    idle("it belongs to a key that is listed, or asks for nothing by itself")),
    "freeze_extra_modules": idle("it belongs to finetuning_type: freeze"),
    "module_dropout": idle("it belongs to finetuning_type: oft"),
    **dict.fromkeys(("vllm_*", "sglang_*"), idle(_ANSWERS)),
    **dict.fromkeys(("image_*", "video_*", "audio_*"), idle(_IMAGES)),
}  # fmt: skip


def defaults(given: File) -> dict[str, Any]:
    """What LLaMA-Factory takes where the file says nothing."""
    adapter = given.get("finetuning_type", "lora") == "lora"
    found: dict[str, Any] = {
        "use_peft": adapter, "learning_rate": 5e-5, "per_device_train_batch_size": 8, "num_train_epochs": 3.0,
        "lr_scheduler_type": "linear", "max_length": 2048, "logging_steps": 500, "save_steps": 500,
        "train_sampling_strategy": "random",
    }  # fmt: skip
    if adapter:
        rank = given.get("lora_rank") or 8
        found |= {"lora_r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "lora_target_modules": "all-linear"}
    if given.get("stage") == "pt" and given.get("packing") is not False:
        found |= {"packing": True, "packing_strategy": "wrapped"}
    if given.get("quantization_bit") == 4:
        found |= {"use_bnb_nested_quant": True}
    if given.get("pref_loss") == "simpo":
        found |= {"cpo_alpha": 0.0}
    if given.get("stage") == "ppo":
        found |= {"temperature": 0.95, "top_p": 0.7, "top_k": 50, "max_completion_length": 1024, "kl_target": 6.0}
        found |= {"num_mini_batches": 1, "num_ppo_epochs": 4}
    return found
