"""What a training command or a recipe's stage says of its adapter, with the names of TRL's model configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator

from posttrain.config.base import Config, option
from posttrain.errors import nearest

_LORA, _QUANTISED = "LoRA", "Quantised weights"

STARTS = ("default", "gaussian", "orthogonal", "pissa", "olora", "mica")  # and pissa_niter_N
PISSA_FAST = re.compile(r"pissa_niter_\d+")
OF_DATA = {  # starts that are computed from data or from quantised weights before training
    "eva": "it is computed from the training rows' activations",
    "corda": "it is computed from the activations of sample rows",
    "loftq": "it is computed while the weights are quantised",
    "lora_ga": "it is computed from the gradients of sample rows",
}


def start_problem(name: str) -> str:
    """Why an adapter cannot start so; empty where it can."""
    if name in STARTS or PISSA_FAST.fullmatch(name):
        return ""
    if name in OF_DATA:
        return f"{OF_DATA[name]} and not made here; use pissa, which needs the weights only"
    return f"the starts are {', '.join(STARTS)} and pissa_niter_N, such as pissa_niter_16{nearest(name, STARTS)}"


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate of an adapter, and a sentence on why it is that."""

    chosen: float
    why: str


def adapter_learning_rate(config: Any, *, usual: bool) -> LearningRate | None:
    """The learning rate of an adapter where the configuration leaves it open; None where it is set.

    Adapters want about ten times the rate of full fine-tuning, whatever their rank (Schulman et al., LoRA Without
    Regret, 2025; QLoRA, arXiv:2305.14314, uses 1e-4 to 2e-4). That was found for the `usual` scale and start. One that
    is scaled by alpha / √r, or begins as a part of the weights, moves them about as far as full fine-tuning, and so
    stays at its rate. A configuration whose own default is an adapter's rate has `adapter_factor` 1.
    """
    if "learning_rate" in config.model_fields_set:
        return None
    default, factor = config.learning_rate, type(config).adapter_factor if usual else 1
    chosen = float(f"{factor * default:.6g}")
    if factor != 1:
        why = f"{factor:g} times the {default:g} of full fine-tuning, as adapters want"
    elif usual:
        why = "the default, which is an adapter's"
    else:
        why = "that of full fine-tuning, as this kind of adapter wants"
    return LearningRate(chosen=chosen, why=f"learning_rate {chosen:g}, {why}; set learning_rate to choose")


class LoraFields(Config):
    """The adapter, and the quantised weights that it may be trained on."""

    use_peft: bool = option(False, "Train a LoRA adapter instead of all weights.", group=_LORA)
    lora_r: int = option(16, "Rank of the adapter.", group=_LORA, ge=1)
    lora_alpha: int = option(32, "Scale of the adapter; alpha / r multiplies it.", group=_LORA, ge=1)
    lora_dropout: float = option(0.05, "Dropout before the adapter.", group=_LORA, ge=0, lt=1)
    lora_target_modules: list[str] | Literal["all-linear"] = option(
        "all-linear", "Names of the layers that get an adapter; all linear layers but the head.", group=_LORA
    )
    lora_target_parameters: list[str] | None = option(
        None, "Names of parameters that get an adapter, such as the experts' of a mixture.", group=_LORA
    )
    lora_modules_to_save: list[str] | None = option(
        None, "Names of modules that are trained and saved whole, beside the adapter.", group=_LORA
    )
    lora_layers_to_transform: list[int] | None = option(
        None, "Numbers of the layers that get an adapter; none = all.", group=_LORA
    )
    lora_rank_pattern: dict[str, int] | None = option(
        None, "Other ranks by layer name, such as {o_proj: 32}.", group=_LORA
    )
    lora_alpha_pattern: dict[str, int] | None = option(None, "Other alphas by layer name.", group=_LORA)
    lora_trainable_tokens: list[int] | None = option(
        None, "Ids of tokens whose rows of the embedding and the head are trained, too.", group=_LORA
    )
    use_rslora: bool = option(False, "Scale the adapter by alpha / sqrt(r).", group=_LORA)
    use_dora: bool = option(False, "Train the size of each output's weights apart from their direction.", group=_LORA)
    lora_init: str = option(
        "default", "What the adapter starts as: default, gaussian, orthogonal, pissa, pissa_niter_N, olora or mica.",
        group=_LORA,
    )  # fmt: skip
    load_in_4bit: bool = option(
        False, "Keep the frozen weights in 4 bits (QLoRA); needs CUDA, bitsandbytes and use_peft.", group=_QUANTISED
    )
    load_in_8bit: bool = option(False, "Keep the frozen weights in 8 bits; needs the same.", group=_QUANTISED)
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = option("nf4", "The 16 values of 4 bits.", group=_QUANTISED)
    use_bnb_nested_quant: bool = option(False, "Quantise the scales of the 4 bits, too.", group=_QUANTISED)
    bnb_4bit_quant_storage: str | None = option(
        None, "Number type that the 4 bits are packed into; none = uint8.", group=_QUANTISED
    )

    @field_validator("lora_target_modules", mode="before")
    @classmethod
    def _one_module(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and list(value) == ["all-linear"]:  # as TRL's command line gives it
            return "all-linear"
        return [value] if isinstance(value, str) and value != "all-linear" else value

    @field_validator(
        "lora_target_parameters", "lora_modules_to_save", "lora_layers_to_transform", "lora_trainable_tokens",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _one_of_a_list(cls, value: Any) -> Any:
        one = isinstance(value, str | int) and not isinstance(value, bool)
        return [value] if one else value or None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        given = self.model_fields_set
        if not self.use_peft:
            for name in sorted(given):
                if name.startswith("lora_") or (name in ("use_rslora", "use_dora") and getattr(self, name)):
                    yield name, f"{name} has an effect only together with use_peft=true"
            for name in ("load_in_4bit", "load_in_8bit"):
                if getattr(self, name):
                    yield (
                        name,
                        f"{name}: quantised weights cannot be trained, an adapter on them can: add use_peft=true",
                    )
        if why := start_problem(self.lora_init):
            yield "lora_init", f"lora_init={self.lora_init!r}: {why}"
        elif self.use_dora and self.lora_init not in ("default", "gaussian"):
            yield (
                "lora_init",
                f"lora_init={self.lora_init!r} together with use_dora: such an adapter could not be handed on without "
                "its base; leave one out",
            )
        if self.lora_target_parameters and self.lora_dropout and "lora_dropout" in given:
            yield (
                "lora_dropout",
                "lora_dropout: parameters (lora_target_parameters) cannot have dropout; write lora_dropout=0",
            )
        if self.load_in_4bit and self.load_in_8bit:
            yield "load_in_8bit", "load_in_8bit and load_in_4bit are both set; keep one"
        for name in ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"):
            if name in given and not self.load_in_4bit:
                yield name, f"{name} has an effect only together with load_in_4bit=true"
        if self.quantization_config() and "quantization_config" in (getattr(self, "model_init_kwargs", None) or {}):
            yield "model_init_kwargs", "model_init_kwargs.quantization_config and load_in_... say the same; keep one"

    def peft_settings(self) -> dict[str, Any] | None:
        """Arguments of peft's LoraConfig, or None for full fine-tuning."""
        if not self.use_peft:
            return None
        parameters = self.lora_target_parameters
        settings: dict[str, Any] = {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": 0.0 if parameters else self.lora_dropout,
            "target_modules": self.lora_target_modules,
            "task_type": "CAUSAL_LM",
        }
        further = {
            "target_parameters": parameters,
            "modules_to_save": self.lora_modules_to_save,
            "layers_to_transform": self.lora_layers_to_transform,
            "rank_pattern": self.lora_rank_pattern,
            "alpha_pattern": self.lora_alpha_pattern,
            "trainable_token_indices": self.lora_trainable_tokens,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "init_lora_weights": None if self.lora_init == "default" else self.lora_init,
        }
        return settings | {name: value for name, value in further.items() if value}

    def quantization_config(self) -> dict[str, Any] | None:
        """Fields of transformers' BitsAndBytesConfig, or None for weights as they are."""
        if self.load_in_8bit:
            return {"load_in_8bit": True}
        if not self.load_in_4bit:
            return None
        wanted: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": self.bnb_4bit_quant_type}
        if self.use_bnb_nested_quant:
            wanted["bnb_4bit_use_double_quant"] = True
        if self.bnb_4bit_quant_storage is not None:
            wanted["bnb_4bit_quant_storage"] = self.bnb_4bit_quant_storage
        return wanted
