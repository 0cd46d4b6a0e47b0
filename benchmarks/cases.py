"""What is timed: the two models, the rows, and the settings of each side."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any

VOCABULARY = 4096  # words the rows are made of; a model's own vocabulary may be larger


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Row lengths in tokens, drawn evenly between two ends; an end-of-text token follows each completion."""

    prompt: tuple[int, int]
    completion: tuple[int, int]


SHAPES = {
    "short": Shape(prompt=(16, 48), completion=(32, 96)),
    "long": Shape(prompt=(192, 384), completion=(32, 96)),
}

MODELS: dict[str, dict[str, Any]] = {
    "T": {  # the size of a teaching model: the body is most of the work
        "model_type": "qwen3",
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "S": {  # a real vocabulary on a small body: the head is most of the work
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One competitor: a library and the settings its config class is given."""

    name: str
    library: str  # "posttrain", "trl" or "limit" (bare matrix products, the machine's own limit)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison: every side trains this model on these rows."""

    method: str  # "sft" or "dpo"
    model: str
    shape: str
    rows_per_step: int
    steps: int
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# The same on every side; the rest of a side's settings say how it gets there.
COMMON: dict[str, Any] = {
    "max_length": None,
    "learning_rate": 1e-4,
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
PLAIN_FP32: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False, "optim": "adamw_torch_fused"}


def micro_batches(rows: int, size: int) -> dict[str, int]:
    """The two settings that make a step of `rows` rows in forward passes of `size`."""
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}


def trl_candidates(method: str, rows: int) -> list[Side]:
    """The settings among which TRL's best is searched: fp32, no checkpointing, cut and padded in every way."""
    sizes = [size for size in (16, 8, 4, 2, 1) if size <= rows and rows % size == 0]
    sides = []
    for size in sizes:
        ways: list[dict[str, Any]] = (
            [{"padding_free": False}, {"padding_free": True}]
            if method == "sft"
            else [{"precompute_ref_log_probs": True}]
        )
        for way in ways:
            label = ", ".join([f"{size} x {rows // size}", *(k for k, v in way.items() if v)])
            settings = {**PLAIN_FP32, **micro_batches(rows, size), **way}
            sides.append(Side(name=f"TRL, {label}", library="trl", settings=settings))
    return sides


def ours(rows: int) -> Side:
    """posttrain with the same precision and optimiser; how the step is cut is its own choice."""
    return Side(name="posttrain", library="posttrain", settings={**PLAIN_FP32, **micro_batches(rows, rows)})


def tutorial(method: str, library: str, rows: int) -> Side:
    """The settings of the tutorial people learn from, everything else left at the library's default."""
    settings: dict[str, Any] = micro_batches(rows, 1)
    if method == "sft":
        settings["gradient_checkpointing"] = False
    return Side(name=f"{library}, tutorial's settings", library=library, settings=settings)


def make_rows(case: Case) -> list[dict[str, Any]]:
    """Rows of random words for all steps: `prompt`, and `completion` or `chosen` and `rejected`."""
    rng, shape = random.Random(case.seed), SHAPES[case.shape]

    def words(length: tuple[int, int]) -> str:
        return " ".join(f"w{rng.randrange(VOCABULARY - 1)}" for _ in range(rng.randint(*length)))

    names = ["completion"] if case.method == "sft" else ["chosen", "rejected"]
    return [
        {"prompt": words(shape.prompt), **{name: " " + words(shape.completion) for name in names}}
        for _ in range(case.rows_per_step * case.steps)
    ]


def lengths(row: dict[str, Any]) -> tuple[int, list[int]]:
    """Tokens of the prompt and of each completion, the end-of-text token included."""
    completions = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    return len(row["prompt"].split()), [len(text.split()) + 1 for text in completions]
