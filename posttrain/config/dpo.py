"""`DPOConfig`: direct preference optimisation."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.pairs import PAIRS, PairConfig

PairLoss = Literal[
    "sigmoid", "ipo", "hinge", "robust", "sft", "sigmoid_norm", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "apo_zero", "apo_down", "discopop",
]  # fmt: skip

_SORTS = (
    "it sorts the log-ratios of a whole batch and compares what stands at the same rank, so it is no sum over pairs: "
    "cutting the batch, or dividing it among processes, would change what is trained; use sigmoid"
)
_OTHER_LOSSES = {
    **dict.fromkeys(("aot", "aot_unpaired", "aot_pair"), _SORTS),
    "kto_pair": "TRL has dropped it; apo_zero is its form without a baseline",
    "cpo": "it has no reference model: use CPOConfig and CPOTrainer",
    "simpo": 'it has no reference model: use CPOTrainer with CPOConfig(loss_type="simpo", cpo_alpha=0.0)',
    "orpo": "it has no reference model: use ORPOConfig and ORPOTrainer",
}
# what an f-divergence leaves out of f' cancels between the two answers, and only there
_OF_DIFFERENCES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
_LOSSES_THAT_READ = {"label_smoothing": ("robust", "exo_pair"), "discopop_tau": ("discopop",)}


class DPOConfig(PairConfig):
    """The fields of preference training, with TRL's names and defaults."""

    renamed: ClassVar = {**names.DPO_RENAMED, **names.LISTED_LOSSES_RENAMED}
    fixed: ClassVar = names.DPO_FIXED
    no_effect: ClassVar = names.DPO_NO_EFFECT
    unsupported: ClassVar = names.DPO_UNSUPPORTED
    unsupported_values: ClassVar = {**PairConfig.unsupported_values, "loss_type": _OTHER_LOSSES}

    beta: float = option(0.1, "How strongly the policy is held to the reference; tau in ipo.", group=PAIRS, gt=0)
    loss_type: list[PairLoss] = option(["sigmoid"], "Loss of a pair, or several to be added up.", group=PAIRS)
    loss_weights: list[Annotated[float, Field(ge=0)]] | None = option(
        None, "Weight of each loss_type; none = 1 each.", group=PAIRS
    )
    label_smoothing: float = option(
        0.0, "Share of labels assumed to be flipped, for robust and exo_pair.", group=PAIRS, ge=0, lt=0.5
    )
    discopop_tau: float = option(0.05, "Width of discopop's blend of two losses.", group=PAIRS, gt=0)
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = option(
        "reverse_kl", "How distance from the reference is measured.", group=PAIRS
    )
    f_alpha_divergence_coef: float = option(
        0.5, "Alpha of alpha_divergence; 1 = reverse_kl, 0 = forward_kl.", group=PAIRS, ge=0
    )
    ld_alpha: float | None = option(
        None, "Weight of the tokens that only a pair's longer answer has; none = 1.", group=PAIRS, ge=0, le=1
    )
    use_weighting: bool = option(False, "Pairs count as much as the policy would write them (WPO).", group=PAIRS)

    precompute_ref_log_probs: bool | None = option(
        None, "Ask the reference once before training; false asks at each step. None = yes, unless it follows.",
        group=PAIRS,
    )  # fmt: skip
    precompute_ref_batch_size: int | None = option(
        None, "Pairs of one pass when the reference is asked beforehand; none = as many as max_tokens_per_pass holds.",
        group=PAIRS, ge=1,
    )  # fmt: skip
    sync_ref_model: bool = option(False, "Whether the reference follows the policy (TR-DPO).", group=PAIRS)
    ref_model_mixup_alpha: float = option(
        0.6, "Share of the policy in the reference when it is synced.", group=PAIRS, gt=0, le=1
    )
    ref_model_sync_steps: int = option(512, "Steps between two syncs.", group=PAIRS, ge=1)

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_loss(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("loss_weights", mode="before")
    @classmethod
    def _one_weight(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.loss_type:
            yield "loss_type", "loss_type is an empty list; write sigmoid"
        if len(set(self.loss_type)) != len(self.loss_type):
            yield (
                "loss_type",
                f"loss_type={self.loss_type!r} names a loss twice; give it a weight in loss_weights",
            )
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            yield (
                "loss_weights",
                f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_type)} losses "
                f"({', '.join(self.loss_type)}); give one weight for each",
            )
        if self.loss_weights is not None and not any(self.loss_weights):
            yield "loss_weights", "loss_weights are all 0, which trains nothing; leave it out for 1 each"
        yield from self._without_effect()
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            yield (
                "label_smoothing",
                "loss_type=exo_pair needs a label_smoothing above 0, for it takes its logarithm; its paper has 1e-3",
            )
        others = [name for name in self.loss_type if name not in _OF_DIFFERENCES]
        if others and self.f_divergence_type != "reverse_kl":
            yield (
                "f_divergence_type",
                f"f_divergence_type={self.f_divergence_type!r} is for losses of the difference between the answers "
                f"({', '.join(_OF_DIFFERENCES)}), where what it leaves out cancels; leave {', '.join(others)} out",
            )

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        for name, losses in _LOSSES_THAT_READ.items():
            if getattr(self, name) != type(self).model_fields[name].default and not set(losses) & set(self.loss_type):
                yield (
                    name,
                    f"{name}={getattr(self, name):g} has an effect on {' and '.join(losses)} only; "
                    f"write loss_type={losses[0]} or leave it out",
                )
        if self.f_alpha_divergence_coef != 0.5 and self.f_divergence_type != "alpha_divergence":
            yield (
                "f_alpha_divergence_coef",
                f"f_alpha_divergence_coef={self.f_alpha_divergence_coef:g} has an effect only with "
                "f_divergence_type=alpha_divergence; write that or leave it out",
            )
        if self.sync_ref_model and self.precompute_ref_log_probs:
            yield (
                "precompute_ref_log_probs",
                "precompute_ref_log_probs=True asks a reference that stays, and sync_ref_model=True moves it; keep one",
            )
        if self.precompute_ref_batch_size is not None and (
            self.sync_ref_model or self.precompute_ref_log_probs is False
        ):
            yield (
                "precompute_ref_batch_size",
                "precompute_ref_batch_size has an effect only where the reference is asked before training",
            )
        if not self.sync_ref_model:
            for name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield (
                        name,
                        f"{name}={getattr(self, name):g} has an effect only with sync_ref_model=true; write that or "
                        "leave it out",
                    )
        if set(self.loss_type) == {"sft"}:
            for name in ("ld_alpha", "use_weighting", "sync_ref_model"):
                if getattr(self, name) not in (None, False):
                    yield name, f"{name} has no effect on loss_type=sft; add a loss of pairs or leave it out"
