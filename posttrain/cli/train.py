"""`posttrain sft`, `dpo`, `grpo` and others: one training run, its flags made from its configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from posttrain.cli.flags import help_text, parse, read
from posttrain.config.command import (
    BCOCommand,
    CommandFields,
    CPOCommand,
    DPOCommand,
    GRPOCommand,
    KTOCommand,
    OfflineRLCommand,
    ORPOCommand,
    PPOCommand,
    RewardCommand,
    SFTCommand,
)

_SHOWN = {"model": "MODEL", "train_dataset": "FILE", "reward_funcs": "REWARD"}  # what the usage line calls them


@dataclass(frozen=True, kw_only=True)
class Training:
    """A command that trains: its flags, and what its help says."""

    fields: type[CommandFields]
    about: str
    example: str


TRAININGS: dict[str, Training] = {
    "sft": Training(
        fields=SFTCommand,
        about=(
            "Supervised fine-tuning. Rows are conversations (messages or ShareGPT conversations), prompt and "
            "completion, Alpaca rows or plain text. The trained model is written to OUTPUT_DIR/model."
        ),
        example="""\
posttrain sft --model MODEL --train_dataset chat.jsonl --output_dir out \\
    --learning_rate 2e-5 --num_train_epochs 1
posttrain sft --config sft.yaml --max_steps 20""",
    ),
    "dpo": Training(
        fields=DPOCommand,
        about=(
            "Preference training (DPO). Rows have chosen and rejected answers, with a prompt column or as whole "
            "conversations. The trained model is written to OUTPUT_DIR/model."
        ),
        example="""\
posttrain dpo --model out/model --train_dataset pairs.jsonl --output_dir dpo \\
    --beta 0.1 --loss_type sigmoid sft --loss_weights 1 0.5
posttrain dpo --config dpo.yaml beta=0.2""",
    ),
    "cpo": Training(
        fields=CPOCommand,
        about=(
            "Preference training without a reference model (CPO, SimPO, AlphaPO). Rows are those of dpo. The "
            "trained model is written to OUTPUT_DIR/model."
        ),
        example="""\
posttrain cpo --model out/model --train_dataset pairs.jsonl --output_dir simpo \\
    --loss_type simpo --cpo_alpha 0 --beta 2.0
posttrain cpo --config cpo.yaml cpo_alpha=0.5""",
    ),
    "orpo": Training(
        fields=ORPOCommand,
        about=(
            "Supervised fine-tuning on the chosen answers with preferences in one stage (ORPO). Rows are those of "
            "dpo. The trained model is written to OUTPUT_DIR/model."
        ),
        example="""\
posttrain orpo --model base --train_dataset pairs.jsonl --output_dir orpo \\
    --learning_rate 8e-6 --beta 0.1
posttrain orpo --config orpo.yaml --max_steps 20""",
    ),
    "kto": Training(
        fields=KTOCommand,
        about=(
            "Learning from single answers that are marked good or bad (KTO). Rows have a prompt, a completion and "
            "a label of true or false, or a conversation and a label; pairs of dpo are taken apart. The trained "
            "model is written to OUTPUT_DIR/model."
        ),
        example="""\
posttrain kto --model out/model --train_dataset answers.jsonl --output_dir kto \\
    --beta 0.1 --desirable_weight 1.33
posttrain kto --config kto.yaml --loss_type apo_zero_unpaired""",
    ),
    "bco": Training(
        fields=BCOCommand,
        about=(
            "Learning to tell answers that are marked good from those marked bad (BCO). Rows are those of kto, of "
            "both kinds. The trained model is written to OUTPUT_DIR/model."
        ),
        example="""\
posttrain bco --model out/model --train_dataset answers.jsonl --output_dir bco \\
    --learning_rate 1e-6 --beta 0.1
posttrain bco --config bco.yaml beta=0.2""",
    ),
    "ppo": Training(
        fields=PPOCommand,
        about=(
            "Online reinforcement learning with a value model (PPO). Rows are those of grpo; a reward is a "
            "function or a reward model's directory. The trained model is written to OUTPUT_DIR/model, every "
            "completion with the value and advantage of its tokens to OUTPUT_DIR/samples.jsonl."
        ),
        example="""\
posttrain ppo --model out/model --train_dataset problems.jsonl --output_dir ppo \\
    --reward_funcs reward/model boxed_answer --reward_weights 1 0.5
posttrain ppo --config ppo.yaml --kl_coef 0.02 --num_mini_batches 4""",
    ),
    "reward": Training(
        fields=RewardCommand,
        about=(
            "A reward model from preferences: one score for an answer. Rows are those of dpo, and may have a "
            "column margin. The model, which transformers loads as AutoModelForSequenceClassification, is written "
            "to OUTPUT_DIR/model; give that directory as a reward to grpo, ppo, grade and evaluate. Where answers "
            "can be checked, a checker is exact and a reward model is not."
        ),
        example="""\
posttrain reward --model out/model --train_dataset pairs.jsonl --output_dir reward \\
    --eval_dataset held-out.jsonl --eval_strategy epoch
posttrain reward --config reward.yaml --center_rewards_coefficient 0.01""",
    ),
    "grpo": Training(
        fields=GRPOCommand,
        about=(
            "Online reinforcement learning (GRPO). Rows have a prompt, as text or messages, and the columns that "
            "the rewards read, such as ground_truth. The trained model is written to OUTPUT_DIR/model, every "
            "completion to OUTPUT_DIR/samples.jsonl."
        ),
        example="""\
posttrain grpo --model out/model --train_dataset problems.jsonl --output_dir grpo \\
    --reward_funcs boxed_answer --num_generations 8 --max_completion_length 256
posttrain grpo --config grpo.yaml --control random-reward --output_dir grpo-control""",
    ),
    "offline-rl": Training(
        fields=OfflineRLCommand,
        about=(
            "Reinforcement learning from answers that are there. Rows have a prompt, a completion or response, "
            "and a reward; or they are the samples.jsonl of any run. The trained model is written to "
            "OUTPUT_DIR/model, what each answer weighed to OUTPUT_DIR/weights.jsonl."
        ),
        example="""\
posttrain offline-rl --model out/model --train_dataset grpo/samples.jsonl --output_dir offline \\
    --loss_type topr --beta 0.05
posttrain offline-rl --config offline.yaml --control shuffled-reward --output_dir offline-control""",
    ),
}


def train(method: str, arguments: Sequence[str]) -> int:
    """The exit code of a training, one of TRAININGS."""
    fields = TRAININGS[method].fields
    if not arguments or parse(fields, arguments).help:
        required = [name for name, info in fields.model_fields.items() if info.is_required()]
        needed = " ".join(f"--{name} {_SHOWN[name]}" for name in sorted(required, key=list(_SHOWN).index))
        usage = f"posttrain {method} {needed} [--config FILE.yaml] [flags]"
        print(help_text(fields, usage=usage, about=TRAININGS[method].about, example=TRAININGS[method].example))
        return 0
    command = read(fields, arguments)

    from posttrain.recipes.methods import StageRun, run_method

    directory = Path(getattr(command, "output_dir", "trainer_output"))
    outcome = run_method(method.replace("-", "_"), StageRun(fields=command, directory=directory))
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks
        return 0
    print(f"model:   {outcome.outputs['model']}")
    print(f"metrics: {directory / 'metrics.jsonl'}")
    if "samples" in outcome.outputs:
        print(f"samples: {outcome.outputs['samples']}")
    return int(outcome.summary.get("gate_status", 0))


sft, dpo, cpo, orpo, kto, bco, reward, grpo, ppo, offline_rl = (
    partial(train, method)
    for method in ("sft", "dpo", "cpo", "orpo", "kto", "bco", "reward", "grpo", "ppo", "offline-rl")
)
