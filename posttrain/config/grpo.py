"""`GRPOConfig`: online reinforcement learning with advantages relative to a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config import grpo_names as names
from posttrain.config.base import option
from posttrain.config.online import ADVANTAGES, LOSS, ROLLOUTS, OnlineConfig
from posttrain.config.rollout_size import RolloutSize
from posttrain.errors import ConfigError

Aggregation = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo"]
_OTHERLOSS = "it is not offered yet; use dapo, grpo, bnpo, dr_grpo or cispo"
_RESAMPLES = 4


class GRPOConfig(OnlineConfig):
    """The fields of group relative policy optimisation, with TRL's names and defaults.

    `per_device_train_batch_size` counts completions. A rollout is what is sampled with one state of the weights:
    `per_device_train_batch_size x steps_per_generation` completions on each process, in whole groups of
    `num_generations`.
    """

    renamed: ClassVar = names.GRPO_RENAMED
    fixed: ClassVar = names.GRPO_FIXED
    no_effect: ClassVar = names.GRPO_NO_EFFECT
    unsupported: ClassVar = names.GRPO_UNSUPPORTED
    unsupported_values: ClassVar = {
        **OnlineConfig.unsupported_values,
        "loss_type": dict.fromkeys(("sapo", "luspo", "vespo"), _OTHERLOSS),
    }

    learning_rate: float = option(1e-6, "Peak learning rate.", group="The step", ge=0)
    num_generations: int = option(8, "Completions of a prompt: the size of a group.", group=ROLLOUTS, ge=1)
    steps_per_generation: int | None = option(
        None, "Micro-steps that one rollout is used for; none = gradient_accumulation_steps.", group=ROLLOUTS, ge=1
    )
    generation_batch_size: int | None = option(
        None, "The same said in completions over all processes; none = follows.", group=ROLLOUTS, ge=1
    )
    num_iterations: int = option(1, "Passes over each rollout.", group=ROLLOUTS, ge=1)
    dynamic_sampling: bool = option(
        False, "Draw fresh prompts in place of groups without signal, as DAPO does.", group=ROLLOUTS
    )
    max_resamples: int = option(_RESAMPLES, "Rounds of fresh prompts at most, in one rollout.", group=ROLLOUTS, ge=1)

    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", "Standard deviation that advantages are divided by: the group's, the rollout's, none.",
        group=ADVANTAGES,
    )  # fmt: skip
    advantage_baseline: Literal["mean", "leave_one_out"] = option(
        "mean", "What a reward is compared with: the group's mean, or that of the others.", group=ADVANTAGES
    )
    loss_type: Aggregation = option("dapo", "How tokens are averaged; cispo has a loss of its own too.", group=LOSS)
    importance_sampling_level: Literal["token", "sequence"] = option(
        "token", "Ratio to the policy that sampled: of each token, or of the completion (GSPO).", group=LOSS
    )
    epsilon: float = option(0.2, "The ratio is clipped below 1 - epsilon.", group=LOSS, gt=0, lt=1)
    epsilon_high: float | None = option(
        None, "And above 1 + epsilon_high; none = epsilon. In cispo the bound of the ratio itself.", group=LOSS, gt=0
    )
    delta: float | None = option(
        None, "Bound of the ratio where the advantage is negative; none = no bound.", group=LOSS, gt=1
    )
    beta: float = option(0.0, "Weight of the KL to the starting model in the loss.", group=LOSS, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = option("k3", "Estimator of that KL.", group=LOSS)
    use_bias_correction_kl: bool = option(
        True, "Multiply that KL by the ratio, so that its gradient is the KL's own.", group=LOSS
    )

    @field_validator("scale_rewards", mode="before")
    @classmethod
    def _truth(cls, value: Any) -> Any:
        return {True: "group", False: "none"}[value] if isinstance(value, bool) else value

    @property
    def reference_needed(self) -> bool:
        return self.beta > 0

    def micro_steps(self, processes: int = 1) -> int:
        """Micro-steps of one pass over a rollout: a multiple of gradient_accumulation_steps.

        Raises ConfigError where generation_batch_size does not fit so many processes.
        """
        size = self._size(processes)
        if problem := size.problem():
            raise ConfigError(f"{type(self).__name__}, {processes} processes: {problem[1]}")
        return size.micro_steps

    def _size(self, processes: int) -> RolloutSize:
        return RolloutSize(
            per_device=self.per_device_train_batch_size, accumulation=self.gradient_accumulation_steps,
            group=self.num_generations, steps_per_generation=self.steps_per_generation,
            generation_batch_size=self.generation_batch_size, processes=processes,
        )  # fmt: skip

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.num_generations == 1:
            yield (
                "num_generations",
                "num_generations=1: a group of one has no baseline, and every advantage would be 0; write 2 or more",
            )
        elif problem := self._size(1).problem():
            yield problem
        if self.kl_estimator != "k3" and not self.beta:
            yield "kl_estimator", "kl_estimator has an effect only together with beta above 0"
        if self.max_resamples != _RESAMPLES and not self.dynamic_sampling:
            yield "max_resamples", "max_resamples has an effect only together with dynamic_sampling=True"
        yield from self._clipping_problems()

    def _clipping_problems(self) -> Iterator[tuple[str, str]]:
        high = self.epsilon_high
        if self.loss_type == "cispo":
            if high is None or high < 1:
                yield (
                    "epsilon_high",
                    f"epsilon_high={high} with loss_type='cispo', where it bounds the ratio itself, which is 1 when a "
                    "completion is new; write epsilon_high=5.0 or another value of at least 1",
                )
            if self.importance_sampling_level == "sequence":
                yield (
                    "importance_sampling_level",
                    "importance_sampling_level='sequence' does not go with loss_type='cispo', which weighs each token "
                    "by its own ratio; write loss_type='grpo' for GSPO, or token",
                )
            for name in ("epsilon", "delta"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield (
                        name,
                        f"{name}={getattr(self, name):g} has no effect with loss_type='cispo', which bounds the ratio "
                        "above only, by epsilon_high; leave it out",
                    )
            return
        if high is not None and high < self.epsilon:
            yield (
                "epsilon_high",
                f"epsilon_high={high:g} is below epsilon={self.epsilon:g}: it is meant to leave unlikely tokens more "
                "room upwards; write 0.28 as DAPO does, or leave it out for epsilon",
            )
        if self.delta is not None and self.delta <= 1 + (high or self.epsilon):
            yield (
                "delta",
                f"delta={self.delta:g} lies within the clip range, which ends at {1 + (high or self.epsilon):g}; "
                "write a larger one, such as 4.0",
            )
