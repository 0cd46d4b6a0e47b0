"""`KTOConfig` and `BCOConfig`: answers that are marked good or bad, without pairs."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.pairs import PairConfig

_ANSWERS = "Answers"
_OF_PAIRS = "it belongs to DPOConfig, which compares two answers to one prompt"
_OF_PAIRS_ONLY = (
    "loss_weights", "label_smoothing", "discopop_tau", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha",
    "use_weighting", "rpo_alpha", "reference_free",
)  # fmt: skip
_SYNC = ("ref_model_mixup_alpha", "ref_model_sync_steps")
_UNDERLYING = (
    "matching the prompts of good and bad answers (UDM) needs an embedding model and a classifier on its vectors, "
    "which are not offered; balance the prompts in the data"
)
_KEPT = (
    "the reference's values of the answers are always computed once; those after other prompts, of which there are new "
    "ones in each step, are computed in the step"
)


def _of_answers(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in table.items() if name not in _OF_PAIRS_ONLY}


class UnpairedConfig(PairConfig):
    """The fields that KTO and BCO share."""

    renamed: ClassVar = names.DPO_RENAMED
    fixed: ClassVar = _of_answers(names.DPO_FIXED)
    no_effect: ClassVar = {
        **_of_answers(names.DPO_NO_EFFECT),
        "precompute_ref_log_probs": _KEPT,
        "precompute_ref_batch_size": "the token budget max_tokens_per_pass decides",
    }
    unsupported: ClassVar = {
        **names.DPO_UNSUPPORTED,
        **dict.fromkeys(_OF_PAIRS_ONLY, _OF_PAIRS),
        "dataset_text_field": "it belongs to SFT; the columns are prompt, completion and label",
    }

    beta: float = option(0.1, "How strongly the policy is held to the reference.", group=_ANSWERS, gt=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        buffered = self.shuffle_buffer_size != type(self).model_fields["shuffle_buffer_size"].default
        for name, given in (("streaming", self.streaming), ("shuffle_buffer_size", buffered)):
            if given:
                yield (
                    name,
                    f"{name}={getattr(self, name)} is for rows that are read during training; the kinds of answers are "
                    "counted before it, and the reference's values computed: leave it out",
                )


class KTOConfig(UnpairedConfig):
    """The fields of Kahneman-Tversky optimisation, with TRL's names and defaults."""

    unsupported_values: ClassVar = {
        **PairConfig.unsupported_values,
        "loss_type": {
            "bco": "use BCOConfig and BCOTrainer",
            "apo_zero": "its form for answers without pairs is apo_zero_unpaired",
        },
    }

    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = option(
        "sequential", "Order of the rows: as given, shuffled each epoch, or rows of like length together.",
        group="Data and output",
    )  # fmt: skip
    loss_type: Literal["kto", "apo_zero_unpaired"] = option(
        "kto", "Loss of an answer; apo_zero_unpaired is kto with z0 = 0.", group=_ANSWERS
    )
    desirable_weight: float = option(1.0, "Weight of the good answers.", group=_ANSWERS, ge=0)
    undesirable_weight: float = option(1.0, "Weight of the bad answers.", group=_ANSWERS, ge=0)
    sync_ref_model: bool = option(False, "Whether the reference follows the policy (TR-DPO).", group=_ANSWERS)
    ref_model_mixup_alpha: float = option(
        0.6, "Share of the policy in the reference when it is synced.", group=_ANSWERS, gt=0, le=1
    )
    ref_model_sync_steps: int = option(512, "Steps between two syncs.", group=_ANSWERS, ge=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.desirable_weight and not self.undesirable_weight:
            yield "desirable_weight", "desirable_weight and undesirable_weight are both 0, which trains nothing"
        rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if self.loss_type == "kto" and rows * int(os.environ.get("WORLD_SIZE") or 1) < 2:
            yield (
                "per_device_train_batch_size",
                "loss_type=kto needs two rows in a step: z0 is measured on a prompt with the answer to another one. "
                "Raise per_device_train_batch_size or gradient_accumulation_steps",
            )
        if not self.sync_ref_model:
            for name in _SYNC:
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield (
                        name,
                        f"{name}={getattr(self, name):g} has an effect only with sync_ref_model=true; write that or "
                        "leave it out",
                    )


class BCOConfig(UnpairedConfig):
    """The fields of binary classifier optimisation, with the names and defaults that TRL had."""

    unsupported: ClassVar = {
        **UnpairedConfig.unsupported,
        **dict.fromkeys(("prompt_sample_size", "min_density_ratio", "max_density_ratio"), _UNDERLYING),
        **dict.fromkeys(("desirable_weight", "undesirable_weight"), "it belongs to KTOConfig; leave it out"),
        **dict.fromkeys(("sync_ref_model", *_SYNC), "BCO compares with a reference that stays; KTOConfig has it"),
        "loss_type": "BCO has one loss; leave it out",
    }

    adapter_factor: ClassVar[float] = 1  # TRL's default is an adapter's learning rate already

    learning_rate: float = option(5e-5, "Peak learning rate.", group="The step", ge=0)
    truncation_mode: Literal["keep_start", "keep_end"] = option(
        "keep_end", "Which end of a row that is too long stays.", group="Pairs"
    )
