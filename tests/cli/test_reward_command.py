"""`posttrain reward` up to the point where a model would be loaded, and once through it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from padded_rows import PAIRS
from transformers import AutoModelForSequenceClassification

from posttrain.cli import main as cli
from posttrain.cli.flags import read
from posttrain.config.command import RewardCommand
from posttrain.config.methods import METHODS
from posttrain.errors import ConfigError

NEEDED = ["--model", "m", "--train_dataset", "d.jsonl"]


def test_help_shows_every_field_and_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reward", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: posttrain reward --model MODEL --train_dataset FILE [--config")
    for name in METHODS["reward"].fields.model_fields:
        assert f"--{name} " in page


def test_an_adapter_is_that_of_a_classifier_and_keeps_the_head() -> None:
    settings = read(RewardCommand, [*NEEDED, "--use_peft", "--lora_r", "4", "--lora_task_type", "SEQ_CLS"])
    assert settings.peft_settings() == {
        "r": 4, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear", "task_type": "SEQ_CLS",
        "modules_to_save": ["score"],
    }  # fmt: skip
    assert read(RewardCommand, NEEDED).peft_settings() is None
    with pytest.raises(ConfigError, match="another kind of adapter"):
        read(RewardCommand, [*NEEDED, "--lora_task_type", "CAUSAL_LM"])


def test_held_out_pairs_need_no_strategy() -> None:
    assert read(RewardCommand, [*NEEDED, "--eval_dataset", "e.jsonl"]).eval_strategy == "no"
    with pytest.raises(ConfigError, match="needs an eval_dataset"):
        read(RewardCommand, [*NEEDED, "--eval_strategy", "epoch"])


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_writes_a_reward_model_and_says_what_it_is_worth(tmp_path: Path, tiny_model_dir, capsys, lora):  # type: ignore[no-untyped-def]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(pair | {"answer": "7"}) for pair in PAIRS))
    words = [
        "reward", "--model", tiny_model_dir("qwen2"), "--train_dataset", str(pairs), "--eval_dataset", str(pairs),
        "--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--use_cpu", "--bf16", "false",
    ]  # fmt: skip
    assert cli.main([*words, *(["--use_peft"] if lora else [])]) == 0
    said = capsys.readouterr().out
    assert "a checker is exact" in said
    assert "held-out pairs: " in said
    assert "calibration error" in said
    assert f"model:   {tmp_path / 'run' / 'model'}" in said
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.num_labels == 1
    assert Path(tmp_path / "run" / "calibration.json").is_file()
