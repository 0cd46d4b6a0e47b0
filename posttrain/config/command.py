"""What a command line or a recipe's stage says beyond a training configuration: which model, which data."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import field_validator

from posttrain.config.base import Config, option
from posttrain.config.data_fields import DATA_RENAMED, DataFields
from posttrain.config.dpo import DPOConfig
from posttrain.config.grpo import GRPOConfig
from posttrain.config.lora import LoraFields
from posttrain.config.names import Fixed, Renamed, synonym
from posttrain.config.offline_rl import OfflineRLConfig
from posttrain.config.ppo import PPOConfig
from posttrain.config.reference_free import CPOConfig, ORPOConfig
from posttrain.config.reward import RewardConfig
from posttrain.config.sft import SFTConfig
from posttrain.config.training import TrainingConfig
from posttrain.config.unpaired import BCOConfig, KTOConfig
from posttrain.errors import nearest

_WHAT = "Model and data"
_OF_THE_COMMAND = ("reward_funcs", "ref_model", "value_model")  # arguments of a trainer that a command has as fields
_REWARD_HINT = "write a built-in name such as boxed_answer, or file.py:function"
_LORA_ONLY = "it belongs to another kind of adapter; LoRA is what is offered"

_RENAMED = {
    "model_name_or_path": synonym("model"),
    "model_revision": Renamed(apply=lambda value: {"model_init_kwargs": {"revision": value}}),
    **DATA_RENAMED,
}
_STREAMED = {"dataset_streaming": synonym("streaming")}
_FIXED = {
    "lora_task_type": Fixed(values=("CAUSAL_LM",), reason=_LORA_ONLY),
}
_UNSUPPORTED = {
    "attn_implementation": "rows are laid out as a forest, whose attention is its own; leave it out",
}
_OTHER_REWARDS = {
    "reward_func": "write reward_funcs",
    **dict.fromkeys(
        ("reward_model", "reward_model_path", "reward_model_name_or_path"),
        "write reward_funcs, which takes a reward model's directory as well as file.py:function",
    ),
}


class CommandFields(DataFields, LoraFields):
    """The model, the data and the adapter of a training command."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        strategy = getattr(self, "eval_strategy", "no")
        nothing = self.eval_dataset is None and self.dataset_test_split is None
        if nothing and (strategy != "no" or getattr(self, "eval_on_start", False)):
            yield "eval_strategy", f"eval_strategy={strategy!r} needs an eval_dataset"
        asked = any(getattr(self, name, False) for name in ("eval_on_start", "do_eval"))
        if nothing and getattr(self, "do_eval", False):
            yield "do_eval", "do_eval=True needs an eval_dataset"
        if not nothing and strategy == "no" and not asked:
            yield (
                "eval_dataset",
                "eval_dataset is never used with eval_strategy='no'; write eval_strategy=epoch or steps, or do_eval",
            )


class SFTCommand(CommandFields, SFTConfig):
    """`posttrain sft` and the method sft of a recipe."""

    renamed: ClassVar = {**SFTConfig.renamed, **_RENAMED, **_STREAMED}
    fixed: ClassVar = {**SFTConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**SFTConfig.unsupported, **_UNSUPPORTED}

    def training(self) -> SFTConfig:
        """The fields that the trainer is given."""
        return SFTConfig(**_shared(self, SFTConfig))


class DPOCommand(CommandFields, DPOConfig):
    """`posttrain dpo` and the method dpo of a recipe."""

    renamed: ClassVar = {**DPOConfig.renamed, **_RENAMED, **_STREAMED}
    fixed: ClassVar = {**DPOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**DPOConfig.unsupported, **_UNSUPPORTED}

    ref_model: str | None = option(
        None, "Directory or name of the reference; none = the model itself, before training.", group=_WHAT
    )

    def training(self) -> DPOConfig:
        """The fields that the trainer is given."""
        return DPOConfig(**_shared(self, DPOConfig))


class CPOCommand(CommandFields, CPOConfig):
    """`posttrain cpo` and the method cpo of a recipe."""

    renamed: ClassVar = {**CPOConfig.renamed, **_RENAMED, **_STREAMED}
    fixed: ClassVar = {**CPOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**CPOConfig.unsupported, **_UNSUPPORTED}

    def training(self) -> CPOConfig:
        """The fields that the trainer is given."""
        return CPOConfig(**_shared(self, CPOConfig))


class ORPOCommand(CommandFields, ORPOConfig):
    """`posttrain orpo` and the method orpo of a recipe."""

    renamed: ClassVar = {**ORPOConfig.renamed, **_RENAMED, **_STREAMED}
    fixed: ClassVar = {**ORPOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**ORPOConfig.unsupported, **_UNSUPPORTED}

    def training(self) -> ORPOConfig:
        """The fields that the trainer is given."""
        return ORPOConfig(**_shared(self, ORPOConfig))


class KTOCommand(CommandFields, KTOConfig):
    """`posttrain kto` and the method kto of a recipe."""

    renamed: ClassVar = {**KTOConfig.renamed, **_RENAMED}
    fixed: ClassVar = {**KTOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**KTOConfig.unsupported, **_UNSUPPORTED}

    ref_model: str | None = option(
        None, "Directory or name of the reference; none = the model itself, before training.", group=_WHAT
    )

    def training(self) -> KTOConfig:
        """The fields that the trainer is given."""
        return KTOConfig(**_shared(self, KTOConfig))


class BCOCommand(CommandFields, BCOConfig):
    """`posttrain bco` and the method bco of a recipe."""

    renamed: ClassVar = {**BCOConfig.renamed, **_RENAMED}
    fixed: ClassVar = {**BCOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**BCOConfig.unsupported, **_UNSUPPORTED}

    ref_model: str | None = option(
        None, "Directory or name of the reference; none = the model itself, before training.", group=_WHAT
    )

    def training(self) -> BCOConfig:
        """The fields that the trainer is given."""
        return BCOConfig(**_shared(self, BCOConfig))


class RewardCommand(CommandFields, RewardConfig):
    """`posttrain reward` and the method reward of a recipe."""

    renamed: ClassVar = {**RewardConfig.renamed, **_RENAMED}
    fixed: ClassVar = {
        **RewardConfig.fixed,
        **_FIXED,
        "lora_task_type": Fixed(values=("SEQ_CLS",), reason=_LORA_ONLY),
    }
    unsupported: ClassVar = {**RewardConfig.unsupported, **_UNSUPPORTED}

    def problems(self) -> Iterator[tuple[str, str]]:
        # an eval_dataset is measured after the training, too
        yield from ((name, said) for name, said in super().problems() if name != "eval_dataset")

    def peft_settings(self) -> dict[str, Any] | None:
        """Arguments of peft's LoraConfig, or None for full fine-tuning."""
        settings = super().peft_settings()
        if settings is None:
            return None
        whole = [name for name in self.lora_modules_to_save or [] if name != "score"]  # it is always trained and saved
        return {**settings, "task_type": "SEQ_CLS", "modules_to_save": ["score", *whole]}

    def training(self) -> RewardConfig:
        """The fields that the trainer is given."""
        return RewardConfig(**_shared(self, RewardConfig))


class RewardFields(CommandFields):
    """What the training commands on answers of one's own say of their rewards."""

    reward_funcs: list[str] = option(
        ..., "Rewards: built-in names, or functions as file.py:function or package.module:function.", group=_WHAT
    )
    reward_options: dict[str, dict[str, Any]] | None = option(
        None, "Options of rewards by name, such as {length: {target: 50}}.", group=_WHAT
    )

    @field_validator("reward_funcs", mode="before")
    @classmethod
    def _one_reward(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        names = self.reward_funcs
        if not names or not all(name.strip() for name in names):
            yield "reward_funcs", f"reward_funcs={names!r} names no reward; {_REWARD_HINT}"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "reward_funcs", f"reward_funcs names {name!r} twice; give it a weight in reward_weights"
        if (weights := getattr(self, "reward_weights", None)) is not None and len(weights) != len(names):
            yield (
                "reward_weights",
                f"reward_weights has {len(weights)} values for {len(names)} rewards ({', '.join(names)}); "
                "give one weight for each",
            )
        for name in self.reward_options or {}:
            if name not in names:
                yield (
                    "reward_options",
                    f"reward_options has {name!r}, reward_funcs has not{nearest(name, names)}",
                )

    def rewards(self) -> list[str | dict[str, Any]]:
        """Each reward's name, or its name and options: {"name": ..., option: value}."""
        options = self.reward_options or {}
        return [{"name": name, **options[name]} if options.get(name) else name for name in self.reward_funcs]


class GRPOCommand(RewardFields, GRPOConfig):
    """`posttrain grpo` and the method grpo of a recipe."""

    renamed: ClassVar = {**GRPOConfig.renamed, **_RENAMED}
    fixed: ClassVar = {**GRPOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {
        **{name: why for name, why in GRPOConfig.unsupported.items() if name != "reward_funcs"},
        **_UNSUPPORTED,
        **_OTHER_REWARDS,
    }

    def training(self) -> GRPOConfig:
        """The fields that the trainer is given."""
        return GRPOConfig(**_shared(self, GRPOConfig))


class PPOCommand(RewardFields, PPOConfig):
    """`posttrain ppo` and the method ppo of a recipe."""

    renamed: ClassVar = {**PPOConfig.renamed, **_RENAMED}
    fixed: ClassVar = {**PPOConfig.fixed, **_FIXED}
    unsupported: ClassVar = {
        **{name: why for name, why in PPOConfig.unsupported.items() if name not in _OF_THE_COMMAND},
        **_UNSUPPORTED,
        **_OTHER_REWARDS,
    }

    ref_model: str | None = option(
        None, "Directory or name of the reference; none = the model itself, before training.", group=_WHAT
    )
    value_model: str | None = option(
        None, "Directory or name of a value model of its own; none = a head on the policy's states.", group=_WHAT
    )

    def training(self) -> PPOConfig:
        """The fields that the trainer is given."""
        return PPOConfig(**_shared(self, PPOConfig))


class OfflineRLCommand(CommandFields, OfflineRLConfig):
    """`posttrain offline-rl` and the method offline_rl of a recipe."""

    renamed: ClassVar = {**OfflineRLConfig.renamed, **_RENAMED}
    fixed: ClassVar = {**OfflineRLConfig.fixed, **_FIXED}
    unsupported: ClassVar = {**OfflineRLConfig.unsupported, **_UNSUPPORTED}

    ref_model: str | None = option(
        None, "Directory or name of the reference; none = the model itself, before training.", group=_WHAT
    )

    def training(self) -> OfflineRLConfig:
        """The fields that the trainer is given."""
        return OfflineRLConfig(**_shared(self, OfflineRLConfig))


class EmbeddedStage(Config):
    """The method embedded of a recipe: the model that ships with the package, and its data as files."""

    model: str | None = option(None, "A model to use instead of the embedded one.", group=_WHAT)
    chat_rows: int = option(3000, "Conversations to write for SFT.", group=_WHAT, ge=1)
    problem_rows: int = option(1000, "Word problems to write for reinforcement learning.", group=_WHAT, ge=1)
    seed: int = option(0, "Seed that draws them.", group=_WHAT, ge=0)


class EvaluateStage(Config):
    """The method evaluate of a recipe: named tasks, every answer recorded, scores with intervals."""

    model: str = option(..., "Directory or name of the model to measure.", group=_WHAT)
    tasks: list[str] = option(..., "Names of the tasks.", group=_WHAT, min_length=1)
    drift_from: str | None = option(
        None, "Directory or name of the model that this one started from, to measure how far it moved.", group=_WHAT
    )
    neutral: str | None = option(
        None, "File of text (.txt, or rows with a column text) that drift is measured on, too.", group=_WHAT
    )
    seed: int = option(0, "Seed where a task samples.", group=_WHAT, ge=0)
    batch_size: int = option(64, "Answers generated at once.", group=_WHAT, ge=1)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_WHAT)


def _shared(command: LoraFields, target: type[TrainingConfig]) -> dict[str, Any]:
    shared = {
        name: getattr(command, name)
        for name in target.model_fields
        if name in command.model_fields_set and name in command.__dict__
    }
    if (quantised := command.quantization_config()) is not None:
        shared["model_init_kwargs"] = {**(shared.get("model_init_kwargs") or {}), "quantization_config": quantised}
    return shared
