"""`CPOConfig` and `ORPOConfig`: preference training without a reference model."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.names import Fixed
from posttrain.config.pairs import PAIRS, PairConfig

_WITHOUT = "the policy is compared with no other model; write DPOConfig for one that is"
_OF_A_REFERENCE = (
    "precompute_ref_log_probs", "precompute_ref_batch_size", "ref_model_mixup_alpha", "ref_model_sync_steps",
    "ref_model_init_kwargs", "sync_ref_model", "ref_adapter_name", "f_divergence_type", "f_alpha_divergence_coef",
    "ld_alpha", "use_weighting", "discopop_tau", "rpo_alpha",
)  # fmt: skip


def _without_reference(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in table.items() if name not in (*_OF_A_REFERENCE, "reference_free")}


_FIXED: Mapping[str, Fixed] = {
    **_without_reference(names.DPO_FIXED),
    "reference_free": Fixed(values=(True,), reason=_WITHOUT),
}
_UNSUPPORTED: Mapping[str, str] = {
    **_without_reference(names.DPO_UNSUPPORTED),
    **dict.fromkeys(_OF_A_REFERENCE, _WITHOUT),
    "loss_weights": "it belongs to DPOConfig",
}


class CPOConfig(PairConfig):
    """The fields of contrastive preference optimisation and SimPO, with TRL's names and defaults."""

    renamed: ClassVar = names.DPO_RENAMED
    fixed: ClassVar = _FIXED
    no_effect: ClassVar = _without_reference(names.DPO_NO_EFFECT)
    unsupported: ClassVar = _UNSUPPORTED

    beta: float = option(0.1, "Scale of the log-probabilities in the loss; 2 to 10 in simpo.", group=PAIRS, gt=0)
    loss_type: Literal["sigmoid", "hinge", "ipo", "simpo", "alphapo"] = option(
        "sigmoid", "Loss of a pair; alphapo is simpo with alpha and without the likelihood.", group=PAIRS
    )
    label_smoothing: float = option(
        0.0, "Share of labels assumed to be flipped, in sigmoid and simpo.", group=PAIRS, ge=0, lt=0.5
    )
    cpo_alpha: float = option(1.0, "Weight of the chosen answer's likelihood; 0 in plain SimPO.", group=PAIRS, ge=0)
    simpo_gamma: float = option(0.5, "Margin that simpo asks for.", group=PAIRS, ge=0)
    alpha: float = option(0.0, "AlphaPO's shape of the reward; 0 = the log-probability.", group=PAIRS, ge=-1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.label_smoothing and self.loss_type in ("hinge", "ipo"):
            yield (
                "label_smoothing",
                f"label_smoothing={self.label_smoothing:g} has no effect on loss_type={self.loss_type}; leave it out",
            )
        for name in ("simpo_gamma", "alpha"):
            value = getattr(self, name)
            if self.loss_type in ("sigmoid", "hinge", "ipo") and value != type(self).model_fields[name].default:
                yield (
                    name,
                    f"{name}={value:g} has an effect on loss_type=simpo and alphapo only"
                    + ("; of a whole answer, a power of the probability overflows" if name == "alpha" else ""),
                )


class ORPOConfig(PairConfig):
    """The fields of odds-ratio preference optimisation, with TRL's names and defaults."""

    renamed: ClassVar = names.DPO_RENAMED
    fixed: ClassVar = _FIXED
    no_effect: ClassVar = _without_reference(names.DPO_NO_EFFECT)
    unsupported: ClassVar = {
        **_UNSUPPORTED,
        "loss_type": "ORPO has one loss; leave it out",
        "label_smoothing": "ORPO takes preferences as they are; leave it out",
    }

    beta: float = option(0.1, "Weight of the odds ratio beside the likelihood; lambda in the paper.", group=PAIRS, gt=0)
