"""`posttrain offline-rl`, and the method offline_rl on the samples of an online run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli import main as cli
from posttrain.config.methods import METHODS
from posttrain.config.recipe import load_recipe
from posttrain.recipes.pipeline import run_recipe


def test_help_shows_every_field_and_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["offline-rl", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: posttrain offline-rl --model MODEL --train_dataset FILE [--config")
    for name in METHODS["offline_rl"].fields.model_fields:
        assert f"--{name} " in page


def test_it_trains_and_says_where_things_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_dir: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"say {i // 2}", "response": f" it is {i}", "reward": i % 2} for i in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "offline-rl", "--model", tiny_model_dir("qwen2"), "--train_dataset", "rows.jsonl",
        "--eval_dataset", "rows.jsonl", "--eval_strategy", "epoch", "--num_train_epochs", "1", "--output_dir", "out",
        "--use_cpu", "--disable_tqdm", "--use_peft", "--loss_type", "topr", "--beta", "0.1",
    ]  # fmt: skip
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "model:   out/model" in said
    assert "Rewards: mean 0.5, from 0 to 1, of 8 answers to 4 prompts." in said
    assert Path("out/model/model.safetensors").is_file()
    assert len(Path("out/weights.jsonl").read_text().splitlines()) == 8
    logged = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert any("eval_rank_correlation" in line for line in logged)
    Path("rows.jsonl").write_text('{"prompt": "say", "response": " it"}\n')
    assert cli.main(words) == 2
    assert "rows.jsonl:1: the columns prompt, response hold no reward" in capsys.readouterr().err


RECIPE = """\
output_dir: out
stages:
  - name: grpo
    method: grpo
    model: MODEL
    train_dataset: prompts.jsonl
    reward_funcs: rewards.py:some
    num_generations: 4
    max_completion_length: 4
    max_steps: 2
    save_strategy: "no"
    use_cpu: true
  - name: offline
    method: offline_rl
    model: MODEL
    train_dataset: ${grpo.samples}
    loss_type: topr
    num_train_epochs: 1
    save_strategy: "no"
    use_cpu: true
"""


def test_a_recipe_learns_from_the_samples_of_an_online_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(
        "def some(completion_ids, **kwargs):\n    return [sum(ids) % 5 for ids in completion_ids]\n"
    )
    Path("prompts.jsonl").write_text("".join(f'{{"prompt": "{word}"}}\n' for word in ("Two and", "I am", "Tell me")))
    Path("recipe.yaml").write_text(RECIPE.replace("MODEL", tiny_model_dir("qwen2")))
    records = run_recipe(load_recipe("recipe.yaml"), say=lambda line: None)
    samples = [json.loads(line) for line in Path(records["grpo"].outputs["samples"]).read_text().splitlines()]
    weights = [json.loads(line) for line in Path(records["offline"].outputs["weights"]).read_text().splitlines()]
    assert [line["reward"] for line in weights] == [line["reward"] for line in samples]
    assert Path(records["offline"].outputs["model"], "model.safetensors").is_file()
    data = json.loads(Path("out/offline/data.json").read_text())
    assert data["format"] == "token ids with reward"
    assert not Path("out/offline/reference").exists()
