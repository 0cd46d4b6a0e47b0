"""What single keys of an Axolotl file set, where that is more than a field of another name."""

from __future__ import annotations

from typing import Any

from posttrain.config.imports.translation import File, Key, NotCarriedError, sets


def rl(value: Any, given: File) -> dict[str, Any]:
    losses: dict[str, Any] = {"ipo": ["ipo"], "simpo": "simpo"}
    return {"loss_type": losses[value]} if value in losses else {}


def adapter(value: Any, given: File) -> dict[str, Any]:
    if value not in ("lora", "qlora"):
        raise NotCarriedError("the adapter that is offered is LoRA")
    return {"use_peft": True}


def of_adapter(name: str, change: Any = lambda value: value) -> Key:
    """A field of the adapter, which full fine-tuning does not read."""
    return sets(lambda value, given: {name: change(value)} if given.get("adapter") else {})


def target(value: Any, given: File) -> dict[str, Any]:
    if not given.get("adapter") or given.get("lora_target_linear"):
        return {}
    named = [value] if isinstance(value, str) else value
    if any(sign in name for name in named for sign in "[(|*+\\"):
        raise NotCarriedError("layers are named, not matched by a pattern; all-linear is every linear layer")
    return {"lora_target_modules": named}


def start(value: Any, given: File) -> dict[str, Any]:
    if not given.get("adapter") or value is True:
        return {}
    if value is False:
        raise NotCarriedError("an adapter starts as no change")
    return {"lora_init": value}


def too_long(value: Any, given: File) -> dict[str, Any]:
    known = {"drop": "drop", "truncate": "cut", "raise": "error"}
    if value not in known:
        raise NotCarriedError(f"it is one of {', '.join(known)}")
    return {"long_rows": known[value]}


def times(strategy: str, steps: str) -> Key:
    """So many a pass over the data, as a share of all steps."""

    def make(value: Any, given: File) -> dict[str, Any]:
        if value == 1:
            return {strategy: "epoch"}
        epochs = given.get("num_epochs") or 1
        return {strategy: "steps", steps: round(1 / (value * epochs), 6)}

    return sets(make)


def total(value: Any, given: File) -> dict[str, Any]:
    micro = given.get("micro_batch_size") or 1
    if value % micro:
        raise NotCarriedError(f"it is no multiple of micro_batch_size={micro}")
    return {"gradient_accumulation_steps": value // micro}


def checkpointing(value: Any, given: File) -> dict[str, Any]:
    return {"gradient_checkpointing": True} if value else {}


def bf16(value: Any, given: File) -> dict[str, Any]:
    if value == "full":
        return {"bf16": True, "bf16_full_eval": True}
    return {} if value == "auto" else {"bf16": value}


def inputs(value: Any, given: File) -> dict[str, Any]:
    return {"assistant_only_loss": False} if value and not given.get("rl") else {}


def special_tokens(value: Any, given: File) -> dict[str, Any]:
    found = {name: token for name, token in value.items() if name in ("pad_token", "eos_token") and token}
    further = value.get("additional_special_tokens")
    return {**found, **({"add_special_tokens": further} if further else {})}


def jinja(value: Any, given: File) -> dict[str, Any]:
    if "{" in str(value):
        raise NotCarriedError("write the template to a file and name it in chat_template_path")
    return {"chat_template_path": value}


def tracker(name: str) -> Key:
    return sets(lambda value, _: {"report_to": name} if value else {})


def project(name: str) -> Key:
    return sets(lambda value, _: {"report_to": name, "project": value} if value else {})


def min_lr(value: Any, given: File) -> dict[str, Any]:
    return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": value}}


def function(name: str) -> str:
    """`module.function` as `module:function`, which is what a reward is called here."""
    module, dot, function = str(name).rpartition(".")
    return f"{module}:{function}" if dot and ":" not in name and "/" not in name else str(name)
