"""What tutorials import from TRL, or hand to a trainer, that is not here, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

_PADDED = "rows are laid end to end without padding, so no collator is needed: leave it out"
_PACKING = "write SFTConfig(packing=True)"
_VALUE = "PPOTrainer gives the policy a head for values itself: pass the model"
_OTHER_MODELS = "only language models are trained here"
_REPORT = "every completion is in samples.jsonl; posttrain report shows them"
_NOT_A_METHOD = "this method is not here; the trainers are SFT, DPO, CPO, ORPO, KTO, BCO, Reward, GRPO, PPO, OfflineRL"
_ONLINE = "for answers of the model's own that are judged in pairs, make pairs with `posttrain data pairs sample`"
_DISTIL = "to learn from a stronger model's answers write `posttrain data distill`, then SFTTrainer"
_SFT_AGAIN = "it is SFTTrainer on rows of one's own"
_GRPO = "write GRPOTrainer with GRPOConfig(advantage_baseline='leave_one_out', scale_rewards='none')"

NOT_HERE: Mapping[str, str] = {
    "DataCollatorForChatML": _PADDED,
    "DataCollatorForLanguageModeling": _PADDED,
    "DataCollatorForPreference": _PADDED,
    "DPODataCollatorWithPadding": _PADDED,
    "RewardDataCollatorWithPadding": _PADDED,
    "ConstantLengthDataset": _PACKING,
    "pack_dataset": _PACKING,
    "pack_examples": _PACKING,
    "truncate_dataset": "write SFTConfig(max_length=...)",
    "AutoModelForCausalLMWithValueHead": _VALUE,
    "AutoModelForSeq2SeqLMWithValueHead": _VALUE,
    "PreTrainedModelWrapper": _VALUE,
    "RLOOTrainer": _GRPO,
    "RLOOConfig": _GRPO,
    "IterativeSFTTrainer": _SFT_AGAIN,
    "IterativeSFTConfig": _SFT_AGAIN,
    **dict.fromkeys(
        ("OnlineDPOTrainer", "OnlineDPOConfig", "XPOTrainer", "XPOConfig", "NashMDTrainer", "NashMDConfig",
         "BasePairwiseJudge", "HfPairwiseJudge", "OpenAIPairwiseJudge", "PairRMJudge", "WinRateCallback"),
        _ONLINE,
    ),
    **dict.fromkeys(
        ("GKDTrainer", "GKDConfig", "DistillationTrainer", "DistillationConfig", "MiniLLMTrainer"), _DISTIL
    ),
    **dict.fromkeys(("PRMTrainer", "PRMConfig"), _NOT_A_METHOD),
    **dict.fromkeys(("DDPOTrainer", "DDPOConfig", "AlignPropTrainer", "AlignPropConfig"), _OTHER_MODELS),
    "BestOfNSampler": "answer with `posttrain sample --count N`, and keep the best with `posttrain data reject-sample`",
    "SyncRefModelCallback": "write DPOConfig(sync_ref_model=True)",
    "BEMACallback": "the reference follows with sync_ref_model=True; an average of the policy's weights is not kept",
    "LogCompletionsCallback": _REPORT,
    "RichProgressCallback": "progress is shown anyway",
    "WeaveCallback": "report_to names the trackers that there are",
    "MergeModelCallback": "an adapter is merged after the run, with save_model",
    "TextEnvironment": "a completion is one answer, without tools",
    "DatasetMixtureConfig": "write train_dataset as a list of {path, config, split, weight}, or posttrain.mixture(...)",
    "get_dataset": "trainers read files and names of datasets themselves: train_dataset=...",
    "get_kbit_device_map": "the device follows from the processes: leave device_map out",
    "init_zero_verbose": "warnings are shown as Python's warnings module is told",
    "is_peft_available": "peft is always there",
    "clone_chat_template": "write SFTConfig(chat_template_path=...): a name, a file or a tokenizer's directory",
    "get_training_chat_template": "spans of answers are found by position, whatever the template is",
    "add_response_schema": "tool calls are read by the template of the model",
    "prepare_multimodal_messages": _OTHER_MODELS,
    "SFTScriptArguments": "it is called ScriptArguments now",
    "DPOScriptArguments": "it is called ScriptArguments now",
    "RewardModel": "load it with transformers' AutoModelForSequenceClassification",
}  # fmt: skip

_OWN_STEP = "the step and its loss are the trainer's own"
_TOOLS = "a completion is one answer, without tools or an environment"
_NOT_PADDED = "rows are laid end to end and nothing is padded"

# Arguments that a trainer of TRL or transformers has, or had, and what to do instead. None asks for nothing.
REFUSED_ARGUMENTS: Mapping[str, str] = {
    "data_collator": f"{_NOT_PADDED}; trained tokens are found by position: leave it out",
    "model_init": "pass the model, or its name",
    "model_init_kwargs": "write it in the configuration",
    "compute_loss_func": _OWN_STEP,
    "compute_metrics": "evaluation returns the loss and its metrics; measure answers with posttrain evaluate",
    "preprocess_logits_for_metrics": "logits are computed at trained positions only and are not kept",
    "optimizer_cls_and_kwargs": "write optim and optim_args in the configuration, or pass optimizers=(optimizer, None)",
    "ref_model": "the reference is the model as it is when the trainer is made",
    "reward_processing_classes": "a reward model's directory brings its own tokenizer",
    "reward_model": "write reward_funcs=[...], which takes a reward model's directory as well as a function",
    "value_model": "it belongs to PPOTrainer",
    "tools": _TOOLS,
    "rollout_func": _TOOLS,
    "environment_factory": _TOOLS,
    "quantization_config": "write it in the configuration's model_init_kwargs, and give the model by name",
    "dataset": "write train_dataset=...",
    "infinite": "write max_steps in the configuration",
    "append_concat_token": "each row ends with the token that ends it",
    "embedding_func": "prompts are not matched by an embedding model",
    "embedding_tokenizer": "prompts are not matched by an embedding model",
    "judge": "write reward_funcs=[...]",
}
