"""Runs the same training in TRL and here, and compares every step.

Both sides get an equal tiny model, the same rows in the same order and the same settings; whatever differs
afterwards is a difference in what is trained, in how it is averaged, or in the update.
"""

from __future__ import annotations

import copy
import importlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest

pytest.importorskip("trl.trainer.dpo_trainer", reason="compares with TRL, which the `test` extra installs")

import torch
from curve_rows import ACCUMULATION, BATCH, STEPS
from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a run logged at each step, and where it ended."""

    losses: list[float]
    gradient_norms: list[float]
    parameters: dict[str, torch.Tensor]


def _curve(trainer: Any) -> Curve:
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Curve(
        losses=[entry["loss"] for entry in logged],
        gradient_norms=[float(entry["grad_norm"]) for entry in logged],
        parameters={n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad},
    )


@pytest.fixture
def both_curves(
    tmp_path: Path, tiny_tokenizer: Any, tiny_model: Callable[..., Any]
) -> Callable[..., tuple[Curve, Curve]]:
    """`both_curves("sft" | "dpo" | "cpo" | "orpo" | "kto", rows, settings, ...)` trains twice: (TRL's curve, ours)."""

    def run(
        method: str,
        rows: Sequence[dict[str, Any]],
        settings: dict[str, Any] | None = None,
        *,
        arch: str = "qwen3",
        chat_template: str | None = None,
        peft_config: Any = None,
        rows_for_trl: Sequence[dict[str, Any]] | None = None,
        template_for_trl: str | None = None,
    ) -> tuple[Curve, Curve]:
        import trl

        import posttrain

        common = {
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": ACCUMULATION,
            "max_steps": STEPS,
            "learning_rate": 1e-2 if method == "sft" else 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 3,
            "weight_decay": 0.01,
            "max_grad_norm": 0.5,
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            **(settings or {}),
        }
        curves = []
        for name, library in (("trl", trl), ("ours", posttrain)):
            tokenizer = copy.deepcopy(tiny_tokenizer)
            tokenizer.chat_template = (template_for_trl if name == "trl" else None) or chat_template
            experimental = name == "trl" and method in ("cpo", "orpo")
            home = importlib.import_module(f"trl.experimental.{method}") if experimental else library
            config_class = getattr(home, f"{method.upper()}Config")
            trainer_class = getattr(home, f"{method.upper()}Trainer")
            chosen_rows = rows_for_trl if name == "trl" and rows_for_trl is not None else rows
            models: dict[str, Any] = {"model": tiny_model(arch), "peft_config": copy.deepcopy(peft_config)}
            if method in ("dpo", "kto") and name == "trl" and peft_config is None:
                # TRL would look for the model on disk. Ours gets None: the initial weights.
                models["ref_model"] = tiny_model(arch)
            trainer = trainer_class(
                **models,
                args=config_class(output_dir=str(tmp_path / name), **common),
                train_dataset=Dataset.from_list(list(chosen_rows)),
                processing_class=tokenizer,
            )
            curves.append(_curve(trainer))
        return curves[0], curves[1]

    return run


@pytest.fixture
def assert_same_curve() -> Callable[[Curve, Curve], None]:
    """Fails with the first step at which two curves part."""

    def check(theirs: Curve, ours: Curve, tolerance: float = 1e-4) -> None:
        assert len(theirs.losses) == len(ours.losses) == STEPS
        moved = max(theirs.losses) - min(theirs.losses)
        assert moved > 20 * tolerance, f"the curve moves by only {moved:.2e}; it would prove nothing"
        for step, (a, b) in enumerate(zip(theirs.losses, ours.losses), start=1):
            assert math.isclose(a, b, abs_tol=tolerance, rel_tol=0), f"loss at step {step}: TRL {a:.6f}, here {b:.6f}"
        for step, (a, b) in enumerate(zip(theirs.gradient_norms, ours.gradient_norms), start=1):
            assert math.isclose(a, b, rel_tol=2e-3), f"gradient norm at step {step}: TRL {a:.6f}, here {b:.6f}"
        assert theirs.parameters.keys() == ours.parameters.keys()
        for name, value in theirs.parameters.items():
            if "attn" in name and name.endswith(("k_proj.bias", "c_attn.bias")):
                continue  # moving all keys changes no attention: the gradient is rounding, which AdamW scales up
            torch.testing.assert_close(
                ours.parameters[name], value, atol=2e-3, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )

    return check
