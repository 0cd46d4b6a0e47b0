"""`posttrain sft --use_peft`: what a user is told at the start, and what lies there in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.cli import main as cli


def test_an_adapter_with_a_new_token_is_trained_said_and_handed_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny_model_dir("qwen2")
    rows = [{"prompt": f"What is {i}?", "completion": f" <think>{i}"} for i in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "sft", "--model", base, "--train_dataset", "rows.jsonl", "--output_dir", "out", "--use_cpu", "--disable_tqdm",
        "--use_peft", "--lora_r", "4", "--lora_init", "pissa", "--lora_layers_to_transform", "1",
        "--add_tokens", "<think>", "--max_steps", "2",
    ]  # fmt: skip
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "new tokens: 1, whose rows start as the mean of the 384 rows before them; the model has 385 now" in said
    assert "LoRA of rank 4, started by pissa, scaled by 8, on 7 layers; rows of tokens: 1" in said
    assert "learning_rate 2e-05, that of full fine-tuning, as this kind of adapter wants" in said
    settings = yaml.safe_load(Path("out/config.yaml").read_text())
    assert (settings["learning_rate"], settings["add_tokens"]) == (2e-5, ["<think>"])

    merged = AutoModelForCausalLM.from_pretrained("out/model", dtype=torch.float32)
    assert len(AutoTokenizer.from_pretrained("out/model")) == merged.config.vocab_size == 385
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(385)
    adapted = PeftModel.from_pretrained(plain, "out/model/adapter")
    with torch.no_grad():
        row = torch.tensor([[5, 384, 9]])
        torch.testing.assert_close(adapted(row).logits, merged(row).logits, atol=1e-4, rtol=1e-4)


def test_quantised_weights_are_refused_in_plain_words_without_cuda(
    tmp_path: Path, tiny_model_dir: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Two and", "completion": " three"}\n')
    words = [
        "sft", "--model", tiny_model_dir("qwen2"), "--train_dataset", str(rows), "--output_dir", str(tmp_path / "out"),
        "--use_cpu", "--use_peft", "--load_in_4bit",
    ]  # fmt: skip
    assert cli.main(words) == 2
    assert "quantised weights need a CUDA device, and this run is on cpu" in capsys.readouterr().err
