"""What TRL's scripts make of a ModelConfig, and what older ones do to a model before they train."""

from __future__ import annotations

import copy
from typing import Any

from peft import LoraConfig
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.chat import CHATML
from posttrain.config.script import ModelConfig
from posttrain.errors import ConfigError


def get_peft_config(model_args: ModelConfig) -> LoraConfig | None:
    """The adapter that the arguments ask for; None without use_peft."""
    settings = model_args.peft_settings()
    return None if settings is None else LoraConfig(**settings)


def get_quantization_config(model_args: ModelConfig) -> BitsAndBytesConfig | None:
    """How the frozen weights are quantised; None without load_in_4bit and load_in_8bit."""
    settings = model_args.quantization_config()
    return None if settings is None else BitsAndBytesConfig(**settings)


def setup_chat_format(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    format: str = "chatml",
    resize_to_multiple_of: int | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer with ChatML: its two tokens, its template, and answers that end at `<|im_end|>`.

    Raises ConfigError for a tokenizer that has a template already.
    """
    if format != "chatml":
        raise ConfigError(f"format={format!r}: chatml is the format; for another write chat_template_path")
    if tokenizer.chat_template:
        raise ConfigError("the tokenizer has a chat template already; leave setup_chat_format out, or set it to None")
    vocabulary = tokenizer.get_vocab()
    if fresh := [token for token in ("<|im_start|>", "<|im_end|>") if token not in vocabulary]:
        tokenizer.add_special_tokens({"additional_special_tokens": fresh}, replace_extra_special_tokens=False)
    tokenizer.chat_template, tokenizer.eos_token = CHATML, "<|im_end|>"
    tokenizer.pad_token = tokenizer.pad_token or "<|im_end|>"
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=resize_to_multiple_of)
    written: list[Any] = [model.config, model.generation_config]
    for config in filter(None, written):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model, tokenizer


def create_reference_model(model: Any, num_shared_layers: int | None = None) -> Any:
    """A frozen copy of the model. `ref_model=None` is the same without a copy."""
    if num_shared_layers is not None:
        raise ConfigError("num_shared_layers: a reference shares no layers with the model; leave it out")
    reference = copy.deepcopy(model)
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference.eval()
