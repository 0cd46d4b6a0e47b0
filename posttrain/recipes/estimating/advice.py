"""What to change where memory or disk will not suffice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.recipes.estimating.estimate import StageEstimate

SHARE = 0.15  # of the whole below which a change is not worth a sentence


def advice(estimate: StageEstimate, values: Mapping[str, Any], *, free_disk: int) -> tuple[str, ...]:
    """Sentences, the change that helps most first; empty where all suffices. `values` are the stage's fields."""
    said: list[str] = []
    high = estimate.memory.high if estimate.memory is not None else 0.0
    short = estimate.fits is False or (
        estimate.fits is True and estimate.available is not None and float("inf") > high > estimate.available
    )
    if short:
        said += _for_memory(estimate, values)
    needed = estimate.disk.get("total", 0.0)
    if needed > free_disk:
        said.append(
            f"{gib(needed)} of checkpoints and model do not fit onto the disk, which has {gib(free_disk)}: set "
            "save_total_limit, save_only_model=true (they cannot be resumed then), or another output_dir"
        )
    return tuple(said)


def _for_memory(estimate: StageEstimate, values: Mapping[str, Any]) -> list[str]:
    parts, adapter = estimate.parts, bool(values.get("use_peft"))
    whole = sum(parts.values()) or 1.0
    trained = sum(parts.get(name, 0.0) for name in ("gradients", "optimizer", "reference"))
    said: list[tuple[float, str]] = []
    if not adapter and trained > SHARE * whole:
        said.append(
            (trained, f"use_peft=true (LoRA) saves most of the {gib(trained)} of gradients and optimiser state")
        )
    if not adapter and parts.get("optimizer", 0.0) > SHARE * whole and values.get("optim") != "adafactor":
        said.append(
            (parts["optimizer"], f"optim=adafactor saves most of the {gib(parts['optimizer'])} that AdamW keeps")
        )
    if values.get("track_kl", True) and parts.get("reference") and "track_kl" in values:
        said.append((parts["reference"], f"track_kl=false saves the {gib(parts['reference'])} of the starting weights"))
    active = parts.get("activations and buffers", whole if len(parts) <= 1 else 0.0)
    if active > SHARE * whole:
        tokens = estimate.uses.get("max_tokens_per_pass")
        if not estimate.uses.get("gradient_checkpointing"):
            said.append(
                (active * 0.8, "gradient_checkpointing=true recomputes activations and takes about a third more time")
            )
        if tokens:
            said.append(
                (active * 0.5, f"max_tokens_per_pass={tokens // 2} halves the activations, with the same result")
            )
    if estimate.device == "cuda" and estimate.uses.get("dtype", "float32") == "float32" and parts.get("weights"):
        said.append((parts["weights"] / 2, "dtype=bfloat16 halves the weights; with LoRA nothing is lost by it"))
    said.append((0.0, "a smaller model"))
    ordered = [text for _, text in sorted(said, key=lambda item: -item[0])]
    return [*ordered, "a smaller batch size would change the mathematics and save no memory: a step is cut by tokens"]


def gib(amount: float) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if amount >= size:
            return f"{amount / size:.{3 if amount < 999 * size else 4}g} {unit}"
    return f"{amount / 1024:.3g} KiB"
