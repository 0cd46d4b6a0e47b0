"""The flags of a training script: whether the command trains, and whether it evaluates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli import main as cli


def test_the_command_trains_evaluates_or_both(tmp_path, monkeypatch, tiny_model_dir, capsys):
    monkeypatch.chdir(tmp_path)
    model = tiny_model_dir("qwen2")
    Path("text.jsonl").write_text('{"prompt": "one", "completion": " two"}\n' * 4)
    words = [
        "sft", "--model", model, "--train_dataset", "text.jsonl", "--eval_dataset", "text.jsonl", "--max_steps", "2",
        "--learning_rate", "0.01", "--use_cpu", "--disable_tqdm",
    ]  # fmt: skip
    assert cli.main([*words, "--output_dir", "a", "--do_train", "false", "--do_eval"]) == 0
    assert "evaluated: eval_" in capsys.readouterr().out
    assert not Path("a/model").exists()
    untrained = json.loads(Path("a/metrics.jsonl").read_text())["eval_loss"]
    assert cli.main([*words, "--output_dir", "b", "--do_eval"]) == 0
    assert Path("b/model/model.safetensors").is_file()
    lines = [json.loads(line) for line in Path("b/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["eval_loss"] < untrained


@pytest.mark.parametrize(("flags", "problem"), [(["--do_train", "false"], "leave nothing to do"),
                                                (["--do_eval"], "needs an eval_dataset")])  # fmt: skip
def test_flags_that_leave_nothing_to_do_are_refused(tmp_path, monkeypatch, tiny_model_dir, capsys, flags, problem):
    monkeypatch.chdir(tmp_path)
    Path("text.jsonl").write_text('{"prompt": "one", "completion": " two"}\n' * 4)
    words = ["sft", "--model", tiny_model_dir("qwen2"), "--train_dataset", "text.jsonl", "--output_dir", "a", *flags]
    assert cli.main(words) == 2
    assert problem in capsys.readouterr().err
