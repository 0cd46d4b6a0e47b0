"""Weights in 4 or 8 bits under an adapter: QLoRA (arXiv:2305.14314), through bitsandbytes on CUDA.

Nothing is cast: norms and embeddings stay in the number type that the model is loaded in, the adapter is float32 (peft
makes it so), and products are computed in bfloat16. What `prepare_model_for_kbit_training` of peft does beyond freezing
is not needed where activations are recomputed without re-entering autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig

from posttrain.errors import ConfigError, ModelError

SHORT = ("load_in_4bit", "load_in_8bit")  # as transformers once took them beside quantization_config


def is_quantised(model: Any) -> bool:
    """Whether the model's matrices are kept in fewer bits than they are computed with."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(plain, "is_quantized", False) or getattr(plain, "quantization_method", None))


def quantisation(init_kwargs: dict[str, Any], device: torch.device) -> BitsAndBytesConfig | None:
    """How the weights are to be quantised, taken out of `init_kwargs`; None for weights as they are.

    Raises ModelError where that cannot be done here, before anything is loaded, and ConfigError for other methods.
    """
    asked = init_kwargs.pop("quantization_config", None)
    short = {name: value for name in SHORT if (value := init_kwargs.pop(name, None))}
    if short and asked is not None:
        raise ConfigError(f"model_init_kwargs has {', '.join(short)} and quantization_config; keep one of them")
    if not short and asked is None:
        return None
    if device.type != "cuda":
        raise ModelError(
            f"quantised weights need a CUDA device, and this run is on {device}. Leave load_in_4bit, load_in_8bit and"
            " quantization_config out: a LoRA adapter on weights as they are runs anywhere."
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError("quantised weights need the package bitsandbytes: pip install bitsandbytes")
    if isinstance(asked, BitsAndBytesConfig):
        return asked
    fields = {**(_plain(asked) if asked is not None else {}), **short}
    if fields.get("load_in_4bit"):
        fields.setdefault("bnb_4bit_quant_type", "nf4")
        fields.setdefault("bnb_4bit_compute_dtype", "bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    return BitsAndBytesConfig(**fields)


def _plain(asked: Any) -> dict[str, Any]:
    """The fields of a quantization_config, of bitsandbytes' kind."""
    fields = dict(asked) if isinstance(asked, Mapping) else None
    method = str(fields.pop("quant_method", "bitsandbytes")) if fields is not None else type(asked).__name__
    if fields is None or method != "bitsandbytes" or not any(fields.get(name) for name in SHORT):
        raise ConfigError(
            f"quantization_config of {method}: write load_in_4bit or load_in_8bit of bitsandbytes, or give a model that"
            " is loaded already."
        )
    return fields


def check_adapted(model: Any) -> None:
    """Raises ConfigError for a quantised model without an adapter: its weights cannot take small steps."""
    if is_quantised(model) and not isinstance(model, PeftModel):
        raise ConfigError(
            "the model's weights are quantised, so they cannot be trained: pass a peft_config (use_peft=true on the"
            " command line) to train a LoRA adapter on them, or load the model without quantisation."
        )
