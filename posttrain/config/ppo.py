"""`PPOConfig`: online reinforcement learning with a value model and an advantage for every token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from posttrain.config import ppo_names as names
from posttrain.config.base import option
from posttrain.config.online import ADVANTAGES, LOSS, OnlineConfig

_KL, _VALUE = "The KL to the reference", "The value model"
_HORIZON = 10_000


class PPOConfig(OnlineConfig):
    """The fields of proximal policy optimisation, with the names and defaults of TRL's last PPO.

    An optimiser step averages `per_device_train_batch_size x gradient_accumulation_steps` completions on each process.
    A rollout is `num_mini_batches` steps' worth of them, and is passed over `num_ppo_epochs` times.
    """

    kl_field: ClassVar[str] = "kl_coef"
    renamed: ClassVar = names.PPO_RENAMED
    fixed: ClassVar = names.PPO_FIXED
    no_effect: ClassVar = names.PPO_NO_EFFECT
    unsupported: ClassVar = names.PPO_UNSUPPORTED

    learning_rate: float = option(3e-6, "Peak learning rate.", group="The step", ge=0)
    num_ppo_epochs: int = option(4, "Passes over each rollout.", group="The step", ge=1)
    num_mini_batches: int = option(1, "Optimiser steps of one pass: parts of a rollout.", group="The step", ge=1)

    whiten_rewards: bool = option(
        False, "Divide the rewards of all tokens of a rollout by their standard deviation.", group=ADVANTAGES
    )
    gamma: float = option(1.0, "Discount of a reward for each token before it.", group=ADVANTAGES, gt=0, le=1)
    lam: float = option(
        0.95, "Lambda of advantages: 0 trusts the value model, 1 the rewards.", group=ADVANTAGES, ge=0, le=1
    )
    lam_alpha: float | None = option(
        None, "A lambda for each length in place of lam: 1 - 1/(lam_alpha x tokens); 0.05 in VAPO.", group=ADVANTAGES,
        gt=0,
    )  # fmt: skip
    missing_eos_penalty: float | None = option(
        None, "Taken from the score of a completion that reached max_completion_length.", group=ADVANTAGES, gt=0
    )
    bootstrap_truncated: bool = option(
        False, "Let the value model say what such a completion would still have got.", group=ADVANTAGES
    )

    kl_coef: float = option(0.05, "Weight of the KL to the reference in each token's reward.", group=_KL, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = option("k1", "Estimator of that KL.", group=_KL)
    kl_target: float | None = option(
        None, "KL of a completion, in nats, that kl_coef is steered to; none = kl_coef stays.", group=_KL, gt=0
    )
    kl_horizon: int = option(
        _HORIZON, "Completions in which kl_coef changes by a factor of at most about 1.2.", group=_KL, ge=1
    )

    cliprange: float = option(0.2, "The ratio is clipped below and above 1 by this.", group=LOSS, gt=0, lt=1)
    early_stop_kl: float | None = option(
        None, "Leave a rollout once a step is this far, in nats a token, from the policy that sampled it.", group=LOSS,
        gt=0,
    )  # fmt: skip

    cliprange_value: float = option(0.2, "The same for values, in units of the reward.", group=_VALUE, gt=0)
    vf_coef: float = option(0.1, "Weight of the value model's loss.", group=_VALUE, gt=0)
    value_lam: float | None = option(
        None, "Lambda of the returns that values are trained on; none = that of advantages.", group=_VALUE, ge=0, le=1
    )
    value_warmup_steps: int = option(0, "First steps in which only the value model learns.", group=_VALUE, ge=0)
    value_learning_rate: float | None = option(
        None, "Peak learning rate of the value model; none = learning_rate.", group=_VALUE, ge=0
    )
    detach_value_head: bool = option(
        False, "Keep the loss of a value head on the policy's states from changing these states.", group=_VALUE
    )

    @property
    def reference_needed(self) -> bool:
        return self.kl_coef > 0

    def micro_steps(self, processes: int = 1) -> int:
        return self.num_mini_batches * self.gradient_accumulation_steps

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        size = self.rollout_size()
        if size % self.num_generations:
            yield (
                "num_generations",
                f"a rollout holds whole groups of num_generations={self.num_generations} completions, and "
                f"per_device_train_batch_size x gradient_accumulation_steps x num_mini_batches = {size} is not a "
                f"multiple of {self.num_generations}",
            )
        yield from self._idle_problems()
        yield from self._truncation_problems()
        if self.value_warmup_steps and self.weight_decay:
            yield (
                "value_warmup_steps",
                f"value_warmup_steps={self.value_warmup_steps} with weight_decay={self.weight_decay:g}: the policy "
                "would decay in steps in which it is to stay; leave one of them out",
            )
        if 0 < self.max_steps <= self.value_warmup_steps:
            yield (
                "value_warmup_steps",
                f"value_warmup_steps={self.value_warmup_steps} leaves none of max_steps={self.max_steps} to the policy",
            )

    def _idle_problems(self) -> Iterator[tuple[str, str]]:
        if self.kl_target is not None and not self.kl_coef:
            yield "kl_target", "kl_target steers kl_coef by factors, and kl_coef=0 stays 0; write 0.05, for a start"
        if self.kl_horizon != _HORIZON and self.kl_target is None:
            yield "kl_horizon", "kl_horizon has an effect only together with kl_target"
        if self.kl_estimator != "k1" and not self.kl_coef:
            yield "kl_estimator", "kl_estimator has an effect only together with kl_coef above 0"
        if self.lam_alpha is not None and "lam" in self.model_fields_set and self.lam != 0.95:
            yield "lam_alpha", f"lam_alpha and lam={self.lam:g} both say what lambda is; keep one"
        if self.early_stop_kl is not None and self.num_ppo_epochs * self.num_mini_batches == 1:
            yield "early_stop_kl", "early_stop_kl has an effect only where a rollout has several steps"

    def _truncation_problems(self) -> Iterator[tuple[str, str]]:
        chosen: dict[str, Any] = {
            "mask_truncated_completions": self.mask_truncated_completions,
            "missing_eos_penalty": self.missing_eos_penalty is not None,
            "bootstrap_truncated": self.bootstrap_truncated,
        }
        named = [name for name, set_ in chosen.items() if set_]
        if len(named) > 1:
            yield (
                named[1],
                f"{' and '.join(named)} say different things about completions that reached max_completion_length: "
                "they are left out, penalised, or taken as if they went on; keep one",
            )
