"""Twenty steps of reward modelling give TRL's loss curve: text and messages, margins, centring and LoRA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from curve_rows import ACCUMULATION, BATCH, CHATML, CHATML_BARE, STEPS, make_rows
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification


def _margined(kind: str, **more: int) -> list[dict[str, Any]]:
    return [row | {"margin": (i % 5) / 4} for i, row in enumerate(make_rows(kind, **more))]


@pytest.fixture
def both_reward_curves(
    tmp_path: Path, make_tokenizer: Callable[..., Any], tiny_model: Callable[..., Any]
) -> Callable[..., tuple[Any, Any]]:
    """As `both_curves`: both sides get an equal model with an equal score head."""
    from conftest import _curve  # type: ignore[attr-defined]

    def run(
        rows: Sequence[dict[str, Any]],
        settings: dict[str, Any] | None = None,
        *,
        arch: str = "qwen3",
        chat_template: str | None = None,
        peft_config: Any = None,
    ) -> tuple[Any, Any]:
        import trl

        import posttrain

        common = {
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": ACCUMULATION,
            "max_steps": STEPS,
            "learning_rate": 1e-3,
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
        start = tmp_path / "start"
        model = AutoModelForSequenceClassification.from_config(_config(tiny_model(arch)))
        language = tiny_model(arch)
        getattr(model, model.base_model_prefix).load_state_dict(language.base_model.state_dict())
        model.score.weight.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(7))
        model.save_pretrained(start)
        curves = []
        for name, library in (("trl", trl), ("ours", posttrain)):
            # A pad token that ends no row. Deliberate deviation: where it is the end of text, TRL reads the score
            # before it; here another token is taken.
            tokenizer = make_tokenizer(pad_token="<|im_start|>")
            tokenizer.chat_template = chat_template
            started = AutoModelForSequenceClassification.from_pretrained(start)
            if peft_config is not None:
                torch.manual_seed(11)
            trainer = library.RewardTrainer(
                model=started,
                args=library.RewardConfig(output_dir=str(tmp_path / name), **common),
                train_dataset=Dataset.from_list(list(rows)),
                processing_class=tokenizer,
                peft_config=copy.deepcopy(peft_config),
            )
            curves.append(_curve(trainer))
        return curves[0], curves[1]

    return run


def _config(model: Any) -> Any:
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.pad_token_id = 1
    return config


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        pytest.param(make_rows("preference"), {}, marks=pytest.mark.slow),
        (_margined("preference"), {}),
        pytest.param(make_rows("preference"), {"center_rewards_coefficient": 0.1}, marks=pytest.mark.slow),
        (_margined("preference", count=450), {"center_rewards_coefficient": 0.05, "max_length": 60}),
    ],
    ids=["plain", "margin", "centred", "margin-centred-long-rows-left-out"],
)
def test_text(
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    both_reward_curves: Callable[..., Any],
    assert_same_curve: Callable[..., None],
) -> None:
    assert_same_curve(*both_reward_curves(rows, settings))


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(CHATML, id="line-break-after-turn"),
        pytest.param(CHATML_BARE, id="bare", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "kind", ["preference messages", pytest.param("implicit preference messages", marks=pytest.mark.slow)]
)
def test_messages(
    kind: str, template: str, both_reward_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_reward_curves(make_rows(kind), chat_template=template))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "gpt2", "mistral", "gemma3_text"])
def test_other_architectures(
    arch: str, both_reward_curves: Callable[..., Any], assert_same_curve: Callable[..., None]
) -> None:
    assert_same_curve(*both_reward_curves(make_rows("preference"), arch=arch))


def test_lora(both_reward_curves: Callable[..., Any], assert_same_curve: Callable[..., None]) -> None:
    lora = LoraConfig(
        r=4,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="SEQ_CLS",
        modules_to_save=["score"],
    )
    curves = both_reward_curves(make_rows("preference"), {"learning_rate": 1e-2}, peft_config=lora)
    assert_same_curve(*curves)
