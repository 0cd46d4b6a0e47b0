"""Small trainings for the tests, of every kind of trainer, each also with -lora, in any process."""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from padded_rows import CONVERSATIONS, PAIRS
from tiny import build_model, build_tokenizer

from posttrain import (
    BCOConfig,
    BCOTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    OfflineRLConfig,
    OfflineRLTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

ADAPTER = {"r": 4, "lora_alpha": 8}
PROMPTS = [{"prompt": text} for text in ("Two and", "I am", "Tell me", "What is", "Seven apples", "A red fox")]
# two or three answers to each prompt
REWARDED = [
    {"prompt": pair["prompt"], "response": text, "reward": reward}
    for i, pair in enumerate(PAIRS)
    for text, reward in ((pair["rejected"], -0.5), (pair["chosen"], 1.0), (f" Number {i}.", 0.25))[: 2 + i % 2]
]
LABELLED = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for i, pair in enumerate(PAIRS)
    for side in (("chosen", "rejected")[i % 2],)
]
# two steps from a rollout of four groups, twice: a checkpoint falls inside a rollout
ROLLOUTS = {
    "per_device_train_batch_size": 4, "steps_per_generation": 4, "num_generations": 4, "num_iterations": 2,
    "max_completion_length": 6, "beta": 0.05, "max_steps": 16,
}  # fmt: skip
# the same with all that adapts itself: the coefficient, when to leave a rollout, who learns. Critic is PPO whose value
# model has a body of its own
PER_TOKEN = {
    "per_device_train_batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "num_generations": 2,
    "max_completion_length": 6, "kl_coef": 0.05, "kl_target": 0.5, "kl_horizon": 20, "early_stop_kl": 0.002,
    "value_warmup_steps": 2, "value_learning_rate": 3e-3, "max_steps": 16,
}  # fmt: skip


def sum_of_ids(completion_ids, **columns):
    """A reward that differs within almost every group."""
    return [float(sum(ids) % 5) for ids in completion_ids]


def trainer(method, output_dir, *, dropout=0.1, rows=CONVERSATIONS, ref_model=None, **options):
    settings = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "num_train_epochs": 4, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 3, "use_cpu": True,
        "lr_scheduler_type": "cosine", "warmup_steps": 2, "max_tokens_per_pass": 80, "bf16": False, "num_threads": 1,
    } | options  # fmt: skip
    name, _, lora = method.partition("-")
    # dropout draws random numbers in every step, so that a resumed run has to have their state right
    model = build_model("gpt2", resid_pdrop=dropout) if not lora else build_model("qwen2")
    torch.manual_seed(5)  # where a fresh adapter's values come from
    shared = {
        "model": model,
        "processing_class": build_tokenizer(),
        "peft_config": {**ADAPTER, "lora_dropout": dropout} if lora else None,
    }
    if name == "grpo":
        args = GRPOConfig(**{**settings, **ROLLOUTS, **options})
        return GRPOTrainer(args=args, reward_funcs=sum_of_ids, train_dataset=PROMPTS, **shared)
    if name in ("ppo", "critic"):
        args = PPOConfig(**{**settings, **PER_TOKEN, **options})
        value_model = build_model("qwen2", seed=3) if name == "critic" else None
        return PPOTrainer(args=args, reward_funcs=sum_of_ids, train_dataset=PROMPTS, value_model=value_model, **shared)
    if name == "offline":
        args = OfflineRLConfig(**{**settings, "loss_type": "topr", "beta": 0.05, **options})
        rewarded = {"train_dataset": REWARDED, "eval_dataset": REWARDED[:-2], "ref_model": ref_model}
        return OfflineRLTrainer(args=args, **rewarded, **shared)
    if name in ("kto", "bco"):
        labelled = {"train_dataset": LABELLED, "eval_dataset": LABELLED[:-2], "ref_model": ref_model}
        order = {"train_sampling_strategy": "random", "disable_dropout": False, "beta": 0.3}
        if name == "kto":
            return KTOTrainer(args=KTOConfig(**settings | order), **labelled, **shared)
        return BCOTrainer(args=BCOConfig(**settings | order), **labelled, **shared)
    if name == "reward":
        args = RewardConfig(**settings, disable_dropout=False, center_rewards_coefficient=0.01)
        return RewardTrainer(
            args=args, train_dataset=[{**row, "margin": i / 9} for i, row in enumerate(PAIRS)], **shared
        )
    if name == "sft":
        return SFTTrainer(args=SFTConfig(**settings), train_dataset=rows, **shared)
    return DPOTrainer(args=DPOConfig(**settings, beta=0.3), train_dataset=PAIRS, ref_model=ref_model, **shared)


def weights_hash(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def main(method, output_dir, resume=False, **options):
    job = trainer(method, output_dir, **options)
    job.train(resume_from_checkpoint=True if resume else None)
    logs = [log for log in job.state.log_history if "loss" in log]
    volatile = ("tokens_per_second", "sampling/tokens_per_second")
    return {
        "losses": [log["loss"] for log in logs],
        "norms": [log["grad_norm"] for log in logs],
        "logs": [{k: v for k, v in log.items() if k not in volatile} for log in logs],
        "weights": weights_hash(job.model),
        "evaluated": [
            {k: v for k, v in log.items() if k != "eval_runtime"} for log in job.state.log_history if "eval_loss" in log
        ],
    }
