"""Twenty steps of DPO give TRL's loss curve: every dataset type, every loss type, truncation and LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from curve_rows import CHATML, CHATML_BARE, make_rows
from peft import LoraConfig


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "sigmoid"},
        pytest.param({"loss_type": "sigmoid", "precompute_ref_log_probs": True}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "ipo", "beta": 0.5}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "hinge", "beta": 0.3}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "robust", "label_smoothing": 0.2}, marks=pytest.mark.slow),
        {"loss_type": ["sigmoid", "ipo"], "loss_weights": [0.7, 0.3], "beta": 0.5},
        pytest.param({"loss_type": "sigmoid_norm", "beta": 5.0}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "exo_pair", "label_smoothing": 0.01}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "nca_pair"}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "bco_pair"}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "sppo_hard", "beta": 1.0, "learning_rate": 3e-4}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "apo_zero"}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "apo_down"}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "discopop"}, marks=pytest.mark.slow),
        pytest.param({"f_divergence_type": "forward_kl", "learning_rate": 3e-4}, marks=pytest.mark.slow),
        pytest.param({"f_divergence_type": "js_divergence"}, marks=pytest.mark.slow),
        pytest.param({"f_divergence_type": "alpha_divergence"}, marks=pytest.mark.slow),
        pytest.param({"ld_alpha": 0.3, "loss_type": ["sigmoid", "ipo"]}, marks=pytest.mark.slow),
        pytest.param({"use_weighting": True}, marks=pytest.mark.slow),
        pytest.param(
            {"sync_ref_model": True, "ref_model_sync_steps": 6, "ref_model_mixup_alpha": 0.7}, marks=pytest.mark.slow
        ),
    ],
    ids=[
        "sigmoid",
        "sigmoid-precomputed",
        "ipo",
        "hinge",
        "robust",
        "weighted",
        "sigmoid_norm",
        "exo_pair",
        "nca_pair",
        "bco_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "discopop",
        "forward_kl",
        "js",
        "alpha",
        "ld",
        "wpo",
        "synced",
    ],
)
def test_loss_types(
    settings: dict[str, Any], both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_curves("dpo", make_rows("preference"), settings))


@pytest.mark.slow
def test_sft_term(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    # TRL averages this term over the tokens of a micro-batch, not of the step: one micro-batch a step agrees.
    settings = {
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 0.5],
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
    }
    assert_same_curve(*both_curves("dpo", make_rows("preference"), settings))


@pytest.mark.parametrize("template", [CHATML, CHATML_BARE], ids=["line-break-after-turn", "bare"])
@pytest.mark.parametrize(
    "kind", ["preference messages", pytest.param("implicit preference messages", marks=pytest.mark.slow)]
)
def test_messages(
    kind: str, template: str, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    # Deliberate deviation: TRL scores the line break that follows the end of the turn, here nothing after the end is.
    # Given a template that ends there, TRL does the same.
    assert_same_curve(*both_curves("dpo", make_rows(kind), chat_template=template, template_for_trl=CHATML_BARE))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_truncated_pairs(
    mode: str, tiny_tokenizer: Any, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    # Deliberate deviations: both answers keep the same prompt where TRL cuts each answer's row for itself, and a pair
    # that the cut leaves without a difference or without room for an answer falls away. So these pairs have answers
    # of equal length that differ early and fit.
    def length(text: str) -> int:
        return len(tiny_tokenizer(text)["input_ids"])

    rows = []
    for row in make_rows("preference", count=450):
        words = row["chosen"].split()
        if words[0] != words[-1] and length(row["prompt"]) <= 44 and length(row["chosen"]) <= 46:
            rows.append(row | {"rejected": " " + " ".join(words[::-1])})
    cut = sum(length(row["prompt"] + row["chosen"]) > 48 for row in rows)
    assert cut > len(rows) // 10
    assert_same_curve(*both_curves("dpo", rows, {"max_length": 48, "truncation_mode": mode}))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "gpt2", "mistral", "gemma3_text"])
def test_other_architectures(
    arch: str, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_curves("dpo", make_rows("preference"), arch=arch))


@pytest.mark.slow
def test_fresh_lora(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    curves = both_curves("dpo", make_rows("preference"), {"learning_rate": 1e-2}, peft_config=lora)
    assert_same_curve(*curves)
