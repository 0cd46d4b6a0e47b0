"""The tokens at which a model's answers stop, written into its generation config."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.chat import stop_tokens
from posttrain.errors import ModelError


def set_stop_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The stop tokens now in the model's generation config, so that `generate` stops at the end of a turn.

    Stop tokens that it had are kept. The pad token is set as well; the model's own config is not touched.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = plain.generation_config
    if config is None:
        raise ModelError(f"{type(model).__name__} has no generation config: it is not a model that generates text.")
    known = config.eos_token_id
    before = [] if known is None else [known] if isinstance(known, int) else list(known)
    stops = list(dict.fromkeys([*stop_tokens(tokenizer), *before]))
    config.eos_token_id = stops[0] if len(stops) == 1 else stops or None
    if tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id
    return stops
