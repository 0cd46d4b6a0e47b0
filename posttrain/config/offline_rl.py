"""`OfflineRLConfig`: reinforcement learning from answers that are there, each with a reward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.dataset import DatasetConfig, not_computed
from posttrain.config.names import Fixed, now

OfflineLoss = Literal["awr", "raft", "reinforce", "topr"]
Baseline = Literal["mean", "leave_one_out", "data_mean", "data_quantile", "data_running"]

_ROWS, _ADVANTAGES, _LOSS, _GUARDS = "Rows", "Rewards and advantages", "The loss", "Guards and control"
_OF_PROMPTS = ("mean", "leave_one_out")
_ONLINE = "it belongs to GRPO: here answers are read, not sampled"


class OfflineRLConfig(DatasetConfig):
    """The fields of offline reinforcement learning. What GRPO has too is called the same.

    `per_device_train_batch_size` counts prompts, each with all its answers.
    """

    renamed: ClassVar = {**names.TRAINING_RENAMED, "max_seq_length": now("max_length")}
    fixed: ClassVar = {
        **names.TRAINING_FIXED,
        "disable_dropout": Fixed(
            values=(True,), reason="dropout is off, so that an answer's likelihood can be compared with the reference's"
        ),
        "kl_estimator": Fixed(
            values=("k3",), reason="the others are no distance on tokens that the policy did not draw"
        ),
    }
    no_effect: ClassVar = names.TRAINING_NO_EFFECT
    unsupported: ClassVar = {
        **names.TRAINING_UNSUPPORTED,
        **dict.fromkeys(("num_generations", "max_completion_length", "top_p", "top_k", "num_iterations"), _ONLINE),
        "reward_funcs": "the rewards are in the data; `posttrain grade` writes them",
        "reward_weights": "a row has one reward; add them up in the data",
        "packing": "it belongs to SFT; leave it out",
    }
    unsupported_values: ClassVar = {
        **DatasetConfig.unsupported_values,
        "scale_rewards": {"batch": "write data, which is the same for all steps"},
        "control": {"random-reward": "rewards are in the data; write shuffled-reward"},
    }

    learning_rate: float = option(1e-5, "Peak learning rate.", group="The step", ge=0)
    per_device_train_batch_size: int = option(
        8, "Prompts of one micro-step on each process, each with all its answers.", group="The step", ge=1
    )
    max_length: int | None = option(
        1024, "Tokens that prompt and answer are cut to; none = no limit.", group=_ROWS, ge=2
    )
    reward_column: str | None = option(
        None, "Column of the reward; none = reward, grade or label, the first there is.", group=_ROWS
    )
    pad_token: str | None = option(None, "Padding for generation; none = the tokenizer's.", group=_ROWS)

    advantage_baseline: Baseline = option(
        "mean",
        "What a reward is compared with: its prompt's mean or that of the prompt's others; the mean, a quantile or a "
        "running mean of all rows.",
        group=_ADVANTAGES,
    )
    scale_rewards: Literal["auto", "group", "data", "none"] = option(
        "auto",
        "Standard deviation that advantages are divided by: the prompt's, that of all rows, none. auto: the prompt's "
        "for a baseline of the prompt, else that of all rows.",
        group=_ADVANTAGES,
    )
    baseline_quantile: float = option(0.5, "The quantile of data_quantile.", group=_ADVANTAGES, ge=0, le=1)
    baseline_decay: float = option(
        0.99, "What data_running keeps of its mean at each row.", group=_ADVANTAGES, ge=0, lt=1
    )

    loss_type: OfflineLoss = option(
        "awr",
        "Likelihood weighted by exp(A / temperature), imitation of the best (raft), or a policy gradient, plain "
        "(reinforce) or tapered (topr).",
        group=_LOSS,
    )
    temperature: float = option(1.0, "Of awr: the lower, the more the best answers count.", group=_LOSS, gt=0)
    max_weight: float = option(20.0, "Of awr: no answer weighs more, before weights are normalised.", group=_LOSS, gt=0)
    normalize_weights: bool = option(True, "Of awr: divide weights by their mean over the data.", group=_LOSS)
    reward_threshold: float | None = option(
        None, "Of raft: imitate answers with this reward or more; none = the best of each prompt.", group=_LOSS
    )
    aggregation: Literal["token", "sequence"] = option(
        "token", "Average over tokens, where long answers count for more, or over answers.", group=_LOSS
    )
    beta: float = option(0.0, "Weight of the anchor to the reference in the loss.", group=_LOSS, ge=0)

    control: Literal["none", "shuffled-reward"] = option(
        "none", "shuffled-reward: the same run with the rewards dealt out anew to all answers.", group=_GUARDS
    )

    @property
    def scale(self) -> Literal["group", "data", "none"]:
        """What advantages are divided by, with what was left open decided."""
        if self.scale_rewards != "auto":
            return self.scale_rewards
        return "group" if self.advantage_baseline in _OF_PROMPTS else "data"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_computed(self)
        if self.length_column_name != type(self).model_fields["length_column_name"].default:
            yield (
                "length_column_name",
                f"length_column_name={self.length_column_name!r}: several answers to a prompt are laid out together, "
                "and group_by_length sorts by all their tokens; leave it out",
            )
        for name, loss in (
            ("temperature", "awr"), ("max_weight", "awr"), ("normalize_weights", "awr"), ("reward_threshold", "raft"),
        ):  # fmt: skip
            if self._is_changed(name) and self.loss_type != loss:
                yield name, f"{name} has an effect only with loss_type={loss!r}; leave it out with {self.loss_type!r}"
        if self.loss_type == "raft":
            for name in ("advantage_baseline", "scale_rewards"):
                if self._is_changed(name):
                    yield name, f"{name} has no effect with loss_type='raft', which looks at rewards; leave it out"
        for name, baseline in (("baseline_quantile", "data_quantile"), ("baseline_decay", "data_running")):
            if self._is_changed(name) and self.advantage_baseline != baseline:
                yield name, f"{name} has an effect only with advantage_baseline={baseline!r}"
        if self.scale_rewards == "group" and self.advantage_baseline not in _OF_PROMPTS:
            yield (
                "scale_rewards",
                f"scale_rewards='group' does not go with advantage_baseline={self.advantage_baseline!r}: a prompt with "
                "one answer has no deviation to divide by; write data or none",
            )

    def _is_changed(self, name: str) -> bool:
        return getattr(self, name) != type(self).model_fields[name].default
