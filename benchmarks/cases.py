"""What is timed: the two models, the rows, and the settings of each side."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any

VOCABULARY = 4096  # words the rows are made of; a model's own vocabulary may be larger


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Row lengths in tokens, drawn evenly between two ends; an end-of-text token follows each completion.

    Where completions are sampled they have the case's `max_completion` instead.
    """

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
    package: str  # "posttrain", "trl", "transformers" or "limit" (bare matrix products, the machine's own limit)
    settings: dict[str, Any] = field(default_factory=dict)
    method: str = ""  # where it is another than the case's: PPO on GRPO's rollouts
    value_model: bool = False  # PPO's value model has a body of its own


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison: every side trains this model on these rows, or samples from it."""

    method: str  # "sft", "dpo", "reward", "grpo" or "generation"
    model: str
    shape: str
    rows_per_step: int  # prompts, where completions are sampled
    steps: int
    generations: int = 1  # completions sampled of each prompt
    max_completion: int = 0  # tokens that are sampled at most, which random weights nearly always reach
    seed: int = 0

    @property
    def sampled(self) -> bool:
        """Whether completions are sampled rather than given."""
        return self.method in ("grpo", "generation")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def common(case: Case) -> dict[str, Any]:
    """The settings that are the same on every side; the rest of a side's settings say how it gets there."""
    settings: dict[str, Any] = {
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if case.method != "grpo":
        return settings | {"max_length": None, "learning_rate": 1e-4, "train_sampling_strategy": "sequential"}
    return settings | {
        "learning_rate": 1e-6,  # so little that the model stays random, and its completions as long as they may be
        "num_generations": case.generations,
        "max_completion_length": case.max_completion,
        "beta": 0.0,
        "disable_dropout": True,
        "shuffle_dataset": False,
    }


PLAIN_FP32: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False, "optim": "adamw_torch_fused"}


def micro_batches(rows: int, size: int) -> dict[str, int]:
    """The two settings that make a step of `rows` rows in forward passes of `size`."""
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}


def candidates(case: Case) -> list[Side]:
    """The settings among which the peer's best is searched."""
    if case.method == "generation":
        return _transformers_candidates(case)
    return _trl_grpo_candidates(case) if case.method == "grpo" else _trl_candidates(case)


def _trl_candidates(case: Case) -> list[Side]:
    """fp32, no checkpointing, cut and padded in every way."""
    rows = case.rows_per_step
    sizes = [size for size in (16, 8, 4, 2, 1) if size <= rows and rows % size == 0]
    sides = []
    for size in sizes:
        ways: list[dict[str, Any]] = (
            [{"padding_free": False}, {"padding_free": True}]
            if case.method == "sft"
            else [{"precompute_ref_log_probs": True} if case.method == "dpo" else {}]
        )
        for way in ways:
            label = ", ".join([f"{size} x {rows // size}", *(k for k, v in way.items() if v)])
            settings = {**PLAIN_FP32, **micro_batches(rows, size), **way}
            sides.append(Side(name=f"TRL, {label}", package="trl", settings=settings))
    return sides


def _trl_grpo_candidates(case: Case) -> list[Side]:
    """fp32, no checkpointing; completions trained so many at a time, and sampled all at once or in parts."""
    rows = case.rows_per_step * case.generations
    sides = []
    for size in (64, 32, 16, 8, 4):
        if rows % size:
            continue
        settings = {**PLAIN_FP32, **micro_batches(rows, size)}
        sides.append(Side(name=f"TRL, {size} x {rows // size}", package="trl", settings=settings))
        for together in (32, 64):
            if size in (8, 16) and together < rows and rows % together == 0:
                parts = {**settings, "steps_per_generation": together // size}
                label = f"{size} x {rows // size}, {together} sampled at once"
                sides.append(Side(name=f"TRL, {label}", package="trl", settings=parts))
    return sides


def _transformers_candidates(case: Case) -> list[Side]:
    """`generate` with so many rows at once, prompts of a batch alike in length."""
    rows = case.rows_per_step * case.generations
    return [
        Side(name=f"transformers, {size} rows", package="transformers", settings={"rows": size})
        for size in (256, 128, 64, 32, 16)
        if size <= rows and rows % size == 0
    ]


def ours(case: Case) -> Side:
    """posttrain with the same precision and optimiser; how the step is cut is its own choice."""
    rows = case.rows_per_step * case.generations
    settings = {} if case.method == "generation" else {**PLAIN_FP32, **micro_batches(rows, rows)}
    return Side(name="posttrain", package="posttrain", settings=settings)


def tutorial(method: str, package: str, rows: int) -> Side:
    """The settings of the tutorial people learn from, everything else left at the library's default."""
    settings: dict[str, Any] = micro_batches(rows, 1)
    if method == "sft":
        settings["gradient_checkpointing"] = False
    return Side(name=f"{package}, tutorial's settings", package=package, settings=settings)


def make_rows(case: Case) -> list[dict[str, Any]]:
    """Rows of random words for all steps: `prompt`, with `completion`, or `chosen` and `rejected`, or neither."""
    rng, shape = random.Random(case.seed), SHAPES[case.shape]

    def words(length: tuple[int, int]) -> str:
        return " ".join(f"w{rng.randrange(VOCABULARY - 1)}" for _ in range(rng.randint(*length)))

    names = {"sft": ["completion"], "dpo": ["chosen", "rejected"], "reward": ["chosen", "rejected"]}.get(
        case.method, []
    )
    return [
        {"prompt": words(shape.prompt), **{name: " " + words(shape.completion) for name in names}}
        for _ in range(case.rows_per_step * case.steps)
    ]


def lengths(case: Case, row: dict[str, Any]) -> tuple[int, list[int]]:
    """Tokens of the prompt and of each completion, the end-of-text token included; sampled ones at full length."""
    given = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    sampled = [case.max_completion] * case.generations if case.sampled else []
    return len(row["prompt"].split()), [len(text.split()) + 1 for text in given] + sampled
