"""`ModelConfig` and `ScriptArguments`: what TRL's scripts read from a command line beside the training's own fields."""

from __future__ import annotations

from typing import ClassVar, Literal

from posttrain.config.base import Config, option
from posttrain.config.lora import LoraFields
from posttrain.config.names import Fixed, gone, now, synonym

_MODEL, _DATA = "The model", "The data"
_FOREST = "rows are laid out as a forest, whose attention is its own; leave it out"


class ModelConfig(LoraFields):
    """The model of a script, and its adapter, with TRL's names."""

    renamed: ClassVar = {"torch_dtype": now("dtype"), "model": synonym("model_name_or_path")}
    fixed: ClassVar = {"lora_task_type": Fixed(values=("CAUSAL_LM",), reason="language models are trained")}
    unsupported_values: ClassVar = {
        "attn_implementation": dict.fromkeys(("flash_attention_2", "flash_attention_3", "sdpa", "eager"), _FOREST)
    }

    model_name_or_path: str | None = option(None, "Directory or name of the model.", group=_MODEL)
    model_revision: str = option("main", "Its revision on the Hub.", group=_MODEL)
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = option(
        None, "Number type of the weights; none = chosen.", group=_MODEL
    )
    attn_implementation: None = option(None, "Attention; none = that of the trainer.", group=_MODEL)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_MODEL)


class ScriptArguments(Config):
    """The dataset of a script, with TRL's names."""

    renamed: ClassVar = {
        "ignore_bias_buffers": gone("nothing here needs it"),
        "gradient_checkpointing_use_reentrant": gone("write gradient_checkpointing_kwargs"),
    }

    dataset_name: str | None = option(None, "Name of the dataset, or its file.", group=_DATA)
    dataset_config: str | None = option(None, "Its configuration.", group=_DATA)
    dataset_train_split: str = option("train", "Split to train on.", group=_DATA)
    dataset_test_split: str = option("test", "Split to evaluate on.", group=_DATA)
    dataset_streaming: bool = option(False, "Read rows when they are needed.", group=_DATA)
