"""`GRPOConfig`: online reinforcement learning with advantages relative to a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config import grpo_names as names
from posttrain.config.base import option
from posttrain.config.rollout_size import RolloutSize
from posttrain.config.training import TrainingConfig
from posttrain.errors import ConfigError

Aggregation = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo"]
Alarm = Literal[
    "entropy", "length", "kl", "signal", "truncation", "repetition", "unjudged",
    "instability", "over_optimisation", "broken_text",
]  # fmt: skip

_ROLLOUTS, _ADVANTAGES, _LOSS, _GUARDS = "Rollouts", "Rewards and advantages", "The policy's loss", "Guards and control"
_OTHER_LOSS = "it is not offered yet; use dapo, grpo, bnpo, dr_grpo or cispo"
_GREEDY = "the completions of a group would all be the same, and nothing could be learned; use 1.0"
_RESAMPLES = 4
_STOP_KEYS = ("stop_strings", "stop")
_SET_BY_SAMPLER = ("tokenize", "add_generation_prompt", "continue_final_message", "return_dict", "return_tensors")


class GRPOConfig(TrainingConfig):
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
        **TrainingConfig.unsupported_values,
        "loss_type": dict.fromkeys(("sapo", "luspo", "vespo"), _OTHER_LOSS),
        "temperature": dict.fromkeys(("0", "0.0"), _GREEDY),
        "top_k": {"-1": "write 0 for all tokens"},
    }

    learning_rate: float = option(1e-6, "Peak learning rate.", group="The step", ge=0)
    per_device_train_batch_size: int = option(
        8, "Completions of one micro-step on each process.", group="The step", ge=1
    )
    remove_unused_columns: bool = option(
        False, "Kept for compatibility: every column reaches the rewards.", group="Data and output"
    )
    pad_token: str | None = option(None, "Padding for generation; none = the tokenizer's.", group="Data and output")

    num_generations: int = option(8, "Completions of a prompt: the size of a group.", group=_ROLLOUTS, ge=1)
    num_generations_eval: int | None = option(
        None, "The same in evaluation; none = num_generations.", group=_ROLLOUTS, ge=1
    )
    max_completion_length: int = option(512, "Tokens of a completion at most.", group=_ROLLOUTS, ge=1)
    steps_per_generation: int | None = option(
        None, "Micro-steps that one rollout is used for; none = gradient_accumulation_steps.", group=_ROLLOUTS, ge=1
    )
    generation_batch_size: int | None = option(
        None, "The same said in completions over all processes; none = follows.", group=_ROLLOUTS, ge=1
    )
    num_iterations: int = option(1, "Passes over each rollout.", group=_ROLLOUTS, ge=1)
    temperature: float = option(1.0, "Temperature of sampling, and of the log-probabilities.", group=_ROLLOUTS, gt=0)
    top_p: float = option(1.0, "Sample from the likeliest tokens with this share of probability.", group=_ROLLOUTS,
                          gt=0, le=1)  # fmt: skip
    top_k: int = option(0, "Sample from this many likeliest tokens; 0 = all.", group=_ROLLOUTS, ge=0)
    min_p: float | None = option(
        None, "Leave out tokens below this share of the likeliest one's probability.", group=_ROLLOUTS, ge=0, le=1
    )
    repetition_penalty: float = option(
        1.0, "Above 1, tokens that were there before become less likely.", group=_ROLLOUTS, gt=0
    )
    generation_kwargs: dict[str, Any] | None = option(
        None, "Texts that end a completion: {stop_strings: [...]}; nothing else.", group=_ROLLOUTS
    )
    chat_template_kwargs: dict[str, Any] | None = option(
        None, "Passed to the chat template, such as {enable_thinking: false}.", group=_ROLLOUTS
    )
    rollout_batch_size: int | None = option(
        None, "Completions that are decoded at once; none = chosen. What is drawn is the same.", group=_ROLLOUTS, ge=1
    )
    dynamic_sampling: bool = option(
        False, "Draw fresh prompts in place of groups without signal, as DAPO does.", group=_ROLLOUTS
    )
    max_resamples: int = option(_RESAMPLES, "Rounds of fresh prompts at most, in one rollout.", group=_ROLLOUTS, ge=1)

    reward_weights: list[float] | None = option(None, "Weight of each reward; none = 1 each.", group=_ADVANTAGES)
    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", "Standard deviation that advantages are divided by: the group's, the rollout's, none.",
        group=_ADVANTAGES,
    )  # fmt: skip
    advantage_baseline: Literal["mean", "leave_one_out"] = option(
        "mean", "What a reward is compared with: the group's mean, or that of the others.", group=_ADVANTAGES
    )
    mask_truncated_completions: bool = option(
        False, "Leave completions that reached max_completion_length out of the loss.", group=_ADVANTAGES
    )

    loss_type: Aggregation = option("dapo", "How tokens are averaged; cispo has a loss of its own too.", group=_LOSS)
    importance_sampling_level: Literal["token", "sequence"] = option(
        "token", "Ratio to the policy that sampled: of each token, or of the completion (GSPO).", group=_LOSS
    )
    epsilon: float = option(0.2, "The ratio is clipped below 1 - epsilon.", group=_LOSS, gt=0, lt=1)
    epsilon_high: float | None = option(
        None, "And above 1 + epsilon_high; none = epsilon. In cispo the bound of the ratio itself.", group=_LOSS, gt=0
    )
    delta: float | None = option(
        None, "Bound of the ratio where the advantage is negative; none = no bound.", group=_LOSS, gt=1
    )
    beta: float = option(0.0, "Weight of the KL to the starting model in the loss.", group=_LOSS, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = option("k3", "Estimator of that KL.", group=_LOSS)
    use_bias_correction_kl: bool = option(
        True, "Multiply that KL by the ratio, so that its gradient is the KL's own.", group=_LOSS
    )
    entropy_coef: float = option(0.0, "Weight of the mean entropy of a token, as a bonus.", group=_LOSS, ge=0)

    track_kl: bool = option(
        True,
        "Measure the KL to the starting model on some completions of each rollout, beta or not; without LoRA this "
        "keeps a second copy of the weights.",
        group=_GUARDS,
    )
    max_kl: float | None = option(
        None, "KL to the starting model above which the kl alarm sounds.", group=_GUARDS, gt=0
    )
    stop_on_alarm: bool | list[Alarm] = option(
        False, "Stop the run at an alarm: at any (true), or at those named.", group=_GUARDS
    )
    control: Literal["none", "random-reward"] = option(
        "none", "random-reward: the same run with rewards drawn at random.", group=_GUARDS
    )
    save_samples: bool = option(True, "Keep every completion in samples.jsonl.", group=_GUARDS)
    log_completions: bool = option(False, "Show completions when metrics are shown.", group=_GUARDS)
    num_completions_to_print: int | None = option(
        None, "How many of them; none = the whole rollout.", group=_GUARDS, ge=1
    )

    @field_validator("scale_rewards", mode="before")
    @classmethod
    def _truth(cls, value: Any) -> Any:
        return {True: "group", False: "none"}[value] if isinstance(value, bool) else value

    @field_validator("reward_weights", mode="before")
    @classmethod
    def _one_weight(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("stop_on_alarm", mode="before")
    @classmethod
    def _one_alarm(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts that end a completion."""
        given = self.generation_kwargs or {}
        return tuple(text for key in _STOP_KEYS for text in _texts(given.get(key)))

    def micro_steps(self, processes: int = 1) -> int:
        """Micro-steps of one pass over a rollout: a multiple of gradient_accumulation_steps.

        Raises ConfigError where generation_batch_size does not fit so many processes.
        """
        size = self._size(processes)
        if problem := size.problem():
            raise ConfigError(f"{type(self).__name__}, {processes} processes: {problem[1]}")
        return size.micro_steps

    def rollout_size(self, processes: int = 1) -> int:
        """Completions of one rollout on each process: a multiple of num_generations."""
        return self.per_device_train_batch_size * self.micro_steps(processes)

    def steps_per_pass(self, processes: int = 1) -> int:
        """Optimiser steps of one pass over a rollout."""
        return self.micro_steps(processes) // self.gradient_accumulation_steps

    def _size(self, processes: int) -> RolloutSize:
        return RolloutSize(
            per_device=self.per_device_train_batch_size, accumulation=self.gradient_accumulation_steps,
            group=self.num_generations, steps_per_generation=self.steps_per_generation,
            generation_batch_size=self.generation_batch_size, processes=processes,
        )  # fmt: skip

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.remove_unused_columns:
            yield (
                "remove_unused_columns",
                "remove_unused_columns=True would take from the rewards the columns they read; leave it out",
            )
        if self.train_sampling_strategy == "group_by_length":
            yield (
                "train_sampling_strategy",
                "train_sampling_strategy='group_by_length' needs lengths, and those of completions are not known "
                "before they are sampled; use random",
            )
        if self.dataloader_drop_last:
            yield (
                "dataloader_drop_last",
                "dataloader_drop_last=True leaves out nothing here: an epoch's last rollout is filled up with prompts "
                "of the next; leave it out",
            )
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
        if self.num_completions_to_print is not None and not self.log_completions:
            yield (
                "num_completions_to_print",
                "num_completions_to_print has an effect only together with log_completions=True",
            )
        if self.reward_weights is not None and not any(self.reward_weights):
            yield "reward_weights", "reward_weights are all 0, which trains nothing; leave it out for 1 each"
        yield from self._passed_on_problems()
        yield from self._clipping_problems()
        yield from self._guard_problems()

    def _passed_on_problems(self) -> Iterator[tuple[str, str]]:
        for key, value in (self.generation_kwargs or {}).items():
            if key in type(self).model_fields:
                yield "generation_kwargs", f"generation_kwargs[{key!r}]: write it as a field, {key}={value!r}"
            elif key not in _STOP_KEYS:
                yield (
                    "generation_kwargs",
                    f"generation_kwargs[{key!r}] is not offered; the sampler takes stop_strings there, and "
                    "temperature, top_p, top_k, min_p and repetition_penalty as fields",
                )
            elif not (texts := _texts(value)) or not all(isinstance(text, str) and text for text in texts):
                yield "generation_kwargs", f"generation_kwargs[{key!r}]={value!r} must be a text or a list of texts"
        for key in self.chat_template_kwargs or {}:
            if key in _SET_BY_SAMPLER:
                yield "chat_template_kwargs", f"chat_template_kwargs[{key!r}] is set by the sampler; leave it out"

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

    def _guard_problems(self) -> Iterator[tuple[str, str]]:
        if self.max_kl is not None and not self.track_kl and self.beta == 0:
            yield "max_kl", "max_kl needs the KL to be measured; leave track_kl=True, or give beta a value"
        alarms = self.stop_on_alarm
        if isinstance(alarms, list) and "kl" in alarms and self.max_kl is None:
            yield "stop_on_alarm", "stop_on_alarm names kl, an alarm that needs a limit; write max_kl, such as 0.1"
        if alarms == []:
            yield "stop_on_alarm", "stop_on_alarm is an empty list; write false for none, true for all"


def _texts(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
