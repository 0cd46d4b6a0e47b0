"""Twenty steps of SFT give TRL's loss curve: every dataset type, and every choice of what is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from curve_rows import CHATML, CHATML_BARE, make_rows
from peft import LoraConfig


def test_text(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    assert_same_curve(*both_curves("sft", make_rows("text")))


def test_prompt_completion(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    assert_same_curve(*both_curves("sft", make_rows("prompt-completion")))


@pytest.mark.slow
def test_prompt_completion_trained_whole(
    both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_curves("sft", make_rows("prompt-completion"), {"completion_only_loss": False}))


@pytest.mark.parametrize("template", [CHATML, CHATML_BARE], ids=["line-break-after-turn", "bare"])
@pytest.mark.parametrize("assistant_only_loss", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_messages(
    template: str,
    assistant_only_loss: bool,
    both_curves: Callable[..., Any],
    assert_same_curve: Callable[..., None],
) -> None:
    settings = {"assistant_only_loss": assistant_only_loss}
    assert_same_curve(*both_curves("sft", make_rows("messages"), settings, chat_template=template))


@pytest.mark.slow
def test_sharegpt_conversations(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    # TRL refuses assistant_only_loss for this dataset type, so it gets the same talks as messages.
    rows, roles = make_rows("sharegpt"), {"human": "user", "gpt": "assistant"}
    talks = [[{"role": roles[m["from"]], "content": m["value"]} for m in r["conversations"]] for r in rows]
    curves = both_curves(
        "sft",
        rows,
        {"assistant_only_loss": True},
        chat_template=CHATML,
        rows_for_trl=[{"messages": talk} for talk in talks],
    )
    assert_same_curve(*curves)


@pytest.mark.slow
@pytest.mark.parametrize("template", [CHATML, CHATML_BARE], ids=["line-break-after-turn", "bare"])
def test_prompt_completion_messages(
    template: str, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    # Deliberate deviation: TRL trains the line break that follows the end of the last turn, here nothing after the
    # end is. Given a template that ends there, TRL does the same.
    rows = make_rows("prompt-completion messages")
    assert_same_curve(*both_curves("sft", rows, chat_template=template, template_for_trl=CHATML_BARE))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_truncated_rows(mode: str, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    # 32 tokens cut most rows and leave some without a trained token: those fall away on both sides.
    settings = {"max_length": 32, "truncation_mode": mode}
    assert_same_curve(*both_curves("sft", make_rows("prompt-completion", count=260), settings))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "gpt2", "mistral", "gemma3_text"])
def test_other_architectures(
    arch: str, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_curves("sft", make_rows("prompt-completion"), arch=arch))


@pytest.mark.slow
def test_lora(both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    assert_same_curve(*both_curves("sft", make_rows("prompt-completion"), peft_config=lora))


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"])
def test_optimizers(optim: str, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    assert_same_curve(*both_curves("sft", make_rows("prompt-completion"), {"optim": optim}))


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "dft"},
        {"label_smoothing_factor": 0.1},
        pytest.param({"loss_type": "dft", "assistant_only_loss": True}, marks=pytest.mark.slow),
    ],
    ids=["dft", "smoothed", "dft-turns"],
)
def test_losses(
    settings: dict[str, Any], both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    kind = "messages" if "assistant_only_loss" in settings else "prompt-completion"
    assert_same_curve(*both_curves("sft", make_rows(kind), settings, chat_template=CHATML))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    ("strategy", "kind", "max_length"),
    [("bfd", "prompt-completion", 64), ("bfd_split", "text", 30), ("wrapped", "prompt-completion", 64)],
)
def test_packing(
    strategy: str, kind: str, max_length: int, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    # No piece here is without a trained token: it would be left out here, and fill a place in TRL's packs. Wrapped
    # rows of text would differ by their first token, which TRL trains from the end of the row before it.
    settings = {
        "packing": True, "packing_strategy": strategy, "max_length": max_length, "per_device_train_batch_size": 3,
    }  # fmt: skip
    assert_same_curve(*both_curves("sft", make_rows(kind, count=450), settings))


@pytest.mark.slow
def test_ready_rows(
    tiny_tokenizer: Any, both_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    rows = []
    for row in make_rows("prompt-completion"):
        prompt, whole = (
            tiny_tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["completion"])
        )
        rows.append({"input_ids": whole, "labels": [-100] * len(prompt) + whole[len(prompt) :]})
    settings = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": 8}
    assert_same_curve(*both_curves("sft", rows, settings))
