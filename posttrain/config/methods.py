"""The methods a recipe's stage can have: their fields and what they leave behind. One literal table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.config.base import Config
from posttrain.config.command import (
    BCOCommand,
    CPOCommand,
    DPOCommand,
    EmbeddedStage,
    EvaluateStage,
    GRPOCommand,
    KTOCommand,
    OfflineRLCommand,
    ORPOCommand,
    PPOCommand,
    RewardCommand,
    SFTCommand,
)
from posttrain.config.curation.convert import ConvertStage
from posttrain.config.curation.distill import DistillStage
from posttrain.config.curation.filter import FilterStage
from posttrain.config.curation.lint import LintStage
from posttrain.config.curation.pairs import PairsCorrectStage, PairsSampleStage
from posttrain.config.curation.reject_sample import RejectSampleStage


@dataclass(frozen=True, kw_only=True)
class MethodShape:
    """A method's fields, which of them name files or models it reads, and the names of its outputs."""

    fields: type[Config]
    reads: tuple[str, ...]
    outputs: tuple[str, ...]  # what ${stage.NAME} can name


METHODS: Mapping[str, MethodShape] = {
    "embedded": MethodShape(fields=EmbeddedStage, reads=("model",), outputs=("model", "data")),
    "sft": MethodShape(
        fields=SFTCommand,
        reads=("model", "train_dataset", "eval_dataset", "chat_template_path", "gate"),
        outputs=("model",),
    ),
    "dpo": MethodShape(
        fields=DPOCommand, reads=("model", "ref_model", "train_dataset", "eval_dataset", "gate"), outputs=("model",)
    ),
    "cpo": MethodShape(fields=CPOCommand, reads=("model", "train_dataset", "eval_dataset", "gate"), outputs=("model",)),
    "orpo": MethodShape(
        fields=ORPOCommand, reads=("model", "train_dataset", "eval_dataset", "gate"), outputs=("model",)
    ),
    "kto": MethodShape(
        fields=KTOCommand, reads=("model", "ref_model", "train_dataset", "eval_dataset", "gate"), outputs=("model",)
    ),
    "bco": MethodShape(
        fields=BCOCommand, reads=("model", "ref_model", "train_dataset", "eval_dataset", "gate"), outputs=("model",)
    ),
    "reward": MethodShape(
        fields=RewardCommand,
        reads=("model", "train_dataset", "eval_dataset", "chat_template_path"),
        outputs=("model",),
    ),
    "grpo": MethodShape(
        fields=GRPOCommand,
        reads=("model", "train_dataset", "eval_dataset", "reward_funcs"),
        outputs=("model", "samples"),
    ),
    "ppo": MethodShape(
        fields=PPOCommand,
        reads=("model", "ref_model", "value_model", "train_dataset", "eval_dataset", "reward_funcs"),
        outputs=("model", "samples"),
    ),
    "offline_rl": MethodShape(
        fields=OfflineRLCommand,
        reads=("model", "ref_model", "train_dataset", "eval_dataset", "gate"),
        outputs=("model", "weights"),
    ),
    "convert": MethodShape(fields=ConvertStage, reads=("inputs",), outputs=("data", "card")),
    "distill": MethodShape(fields=DistillStage, reads=("model", "inputs"), outputs=("data", "card")),
    "reject_sample": MethodShape(
        fields=RejectSampleStage,
        reads=("model", "inputs", "reward"),
        outputs=("data", "card", "unsolved", "mixed", "solved"),
    ),
    "pairs_correct": MethodShape(
        fields=PairsCorrectStage,
        reads=("model", "inputs", "function", "editor"),
        outputs=("data", "card"),
    ),
    "pairs_sample": MethodShape(
        fields=PairsSampleStage, reads=("model", "inputs", "reward", "judge"), outputs=("data", "card")
    ),
    "filter": MethodShape(
        fields=FilterStage,
        reads=("inputs", "decontaminate", "forbidden_words", "tokenizer", "ifd_model", "reward", "embedding_model"),
        outputs=("data", "card"),
    ),
    "lint": MethodShape(
        fields=LintStage, reads=("inputs", "model", "tokenizer", "against"), outputs=("data", "report")
    ),
    "evaluate": MethodShape(
        fields=EvaluateStage, reads=("model", "drift_from", "neutral", "tasks"), outputs=("scores",)
    ),
}
