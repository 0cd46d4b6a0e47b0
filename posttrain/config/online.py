"""`OnlineConfig`: what every training on answers of its own is told, whatever its algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config.base import option
from posttrain.config.training import TrainingConfig

Alarm = Literal[
    "entropy", "length", "kl", "signal", "truncation", "repetition", "unjudged", "reward_hacking",
    "instability", "over_optimisation", "broken_text",
]  # fmt: skip

ROLLOUTS, ADVANTAGES, LOSS, GUARDS = "Rollouts", "Rewards and advantages", "The policy's loss", "Guards and control"
_GREEDY = "the completions of a group would all be the same, and nothing could be learned; use 1.0"
_STOP_KEYS = ("stop_strings", "stop")
_SET_BY_SAMPLER = ("tokenize", "add_generation_prompt", "continue_final_message", "return_dict", "return_tensors")


class OnlineConfig(TrainingConfig):
    """The fields of rollouts, rewards and guards. `per_device_train_batch_size` counts completions."""

    kl_field: ClassVar[str] = "beta"  # the weight of the KL to the reference
    unsupported_values: ClassVar = {
        **TrainingConfig.unsupported_values,
        "temperature": dict.fromkeys(("0", "0.0"), _GREEDY),
        "top_k": {"-1": "write 0 for all tokens"},
    }

    per_device_train_batch_size: int = option(
        8, "Completions of one micro-step on each process.", group="The step", ge=1
    )
    remove_unused_columns: bool = option(
        False, "Kept for compatibility: every column reaches the rewards.", group="Data and output"
    )
    pad_token: str | None = option(None, "Padding for generation; none = the tokenizer's.", group="Data and output")

    num_generations: int = option(1, "Completions of a prompt.", group=ROLLOUTS, ge=1)
    num_generations_eval: int | None = option(
        None, "The same in evaluation; none = num_generations.", group=ROLLOUTS, ge=1
    )
    max_completion_length: int = option(512, "Tokens of a completion at most.", group=ROLLOUTS, ge=1)
    temperature: float = option(1.0, "Temperature of sampling, and of the log-probabilities.", group=ROLLOUTS, gt=0)
    top_p: float = option(1.0, "Sample from the likeliest tokens with this share of probability.", group=ROLLOUTS,
                          gt=0, le=1)  # fmt: skip
    top_k: int = option(0, "Sample from this many likeliest tokens; 0 = all.", group=ROLLOUTS, ge=0)
    min_p: float | None = option(
        None, "Leave out tokens below this share of the likeliest one's probability.", group=ROLLOUTS, ge=0, le=1
    )
    repetition_penalty: float = option(
        1.0, "Above 1, tokens that were there before become less likely.", group=ROLLOUTS, gt=0
    )
    generation_kwargs: dict[str, Any] | None = option(
        None, "Texts that end a completion: {stop_strings: [...]}; nothing else.", group=ROLLOUTS
    )
    chat_template_kwargs: dict[str, Any] | None = option(
        None, "Passed to the chat template, such as {enable_thinking: false}.", group=ROLLOUTS
    )
    rollout_batch_size: int | None = option(
        None, "Completions that are decoded at once; none = chosen. What is drawn is the same.", group=ROLLOUTS, ge=1
    )

    reward_weights: list[float] | None = option(None, "Weight of each reward; none = 1 each.", group=ADVANTAGES)
    mask_truncated_completions: bool = option(
        False, "Leave completions that reached max_completion_length out of the loss.", group=ADVANTAGES
    )

    entropy_coef: float = option(0.0, "Weight of the mean entropy of a token, as a bonus.", group=LOSS, ge=0)

    track_kl: bool = option(
        True,
        "Measure the KL to the starting model on some completions of each rollout, beta or not; without LoRA this "
        "keeps a second copy of the weights.",
        group=GUARDS,
    )
    max_kl: float | None = option(None, "KL to the starting model above which the kl alarm sounds.", group=GUARDS, gt=0)
    stop_on_alarm: bool | list[Alarm] = option(
        False, "Stop the run at an alarm: at any (true), or at those named.", group=GUARDS
    )
    control: Literal["none", "random-reward"] = option(
        "none", "random-reward: the same run with rewards drawn at random.", group=GUARDS
    )
    save_samples: bool = option(True, "Keep every completion in samples.jsonl.", group=GUARDS)
    log_completions: bool = option(False, "Show completions when metrics are shown.", group=GUARDS)
    num_completions_to_print: int | None = option(
        None, "How many of them; none = the whole rollout.", group=GUARDS, ge=1
    )

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

    @property
    def reference_needed(self) -> bool:
        """Whether training uses the KL to the reference, so that it is computed for every token."""
        raise NotImplementedError

    def micro_steps(self, processes: int = 1) -> int:
        """Micro-steps of one pass over a rollout: a multiple of gradient_accumulation_steps.

        Raises ConfigError where what was said of the size of a rollout does not fit so many processes.
        """
        raise NotImplementedError

    def rollout_size(self, processes: int = 1) -> int:
        """Completions of one rollout on each process: a multiple of num_generations."""
        return self.per_device_train_batch_size * self.micro_steps(processes)

    def steps_per_pass(self, processes: int = 1) -> int:
        """Optimiser steps of one pass over a rollout."""
        return self.micro_steps(processes) // self.gradient_accumulation_steps

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
        if self.num_completions_to_print is not None and not self.log_completions:
            yield (
                "num_completions_to_print",
                "num_completions_to_print has an effect only together with log_completions=True",
            )
        if self.reward_weights is not None and not any(self.reward_weights):
            yield "reward_weights", "reward_weights are all 0, which trains nothing; leave it out for 1 each"
        yield from self._passed_on_problems()
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

    def _guard_problems(self) -> Iterator[tuple[str, str]]:
        if self.max_kl is not None and not self.track_kl and not self.reference_needed:
            yield "max_kl", f"max_kl needs the KL to be measured; leave track_kl=True, or give {self.kl_field} a value"
        alarms = self.stop_on_alarm
        if isinstance(alarms, list) and "kl" in alarms and self.max_kl is None:
            yield "stop_on_alarm", "stop_on_alarm names kl, an alarm that needs a limit; write max_kl, such as 0.1"
        if alarms == []:
            yield "stop_on_alarm", "stop_on_alarm is an empty list; write false for none, true for all"


def _texts(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
