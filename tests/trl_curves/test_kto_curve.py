"""Twenty steps of KTO give TRL's loss curve, with one micro-batch a step: TRL takes z0 of each for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from curve_rows import BATCH, CHATML_BARE, make_rows
from peft import LoraConfig

ONE_CUT = {"per_device_train_batch_size": 2 * BATCH, "gradient_accumulation_steps": 1, "learning_rate": 3e-3}


@pytest.mark.parametrize(
    "settings",
    [
        {"desirable_weight": 0.5, "undesirable_weight": 1.5},
        pytest.param({"beta": 0.5}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "apo_zero_unpaired", "max_length": 30}, marks=pytest.mark.slow),
        pytest.param({"precompute_ref_log_probs": True}, marks=pytest.mark.slow),
        pytest.param({"sync_ref_model": True, "ref_model_sync_steps": 6}, marks=pytest.mark.slow),
    ],
    ids=["kto", "beta", "apo_zero_unpaired-cut", "precomputed", "synced"],
)
def test_losses(
    settings: dict[str, Any], both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_curves("kto", make_rows("unpaired"), ONE_CUT | settings))


@pytest.mark.slow
def test_messages(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    rows = make_rows("unpaired messages")
    assert_same_curve(*both_curves("kto", rows, ONE_CUT, chat_template=CHATML_BARE))


@pytest.mark.slow
def test_fresh_lora(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = make_rows("unpaired")
    assert_same_curve(*both_curves("kto", rows, ONE_CUT | {"learning_rate": 1e-2}, peft_config=lora))


def test_without_a_baseline_accumulation_changes_nothing(
    both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    settings = {"loss_type": "apo_zero_unpaired", "learning_rate": 3e-3}
    assert_same_curve(*both_curves("kto", make_rows("unpaired"), settings))
