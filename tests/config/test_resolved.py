"""Where each value of a file came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.config.resolved import resolve_file
from posttrain.errors import ConfigError

RECIPE = """\
seed: 3
stages:
  - name: first
    method: sft
    model: m
    train_dataset: a.jsonl
    max_seq_length: 512
  - method: dpo
    model: ${first.model}
    train_dataset: b.jsonl
    beta: 0.2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_recipe_shows_lines_overrides_and_defaults(recipe: Path) -> None:
    first, second = resolve_file(recipe, ["dpo.learning_rate=1e-5"], None)
    assert (first.title, second.title) == ("first (sft)", "dpo")
    assert (first.values["max_length"], first.places["max_length"]) == (512, "line 7, as max_seq_length")
    assert (first.values["seed"], first.places["seed"]) == (3, "the recipe's")
    assert (second.values["model"], second.places["model"]) == ("${first.model}", "line 9")
    assert (second.values["learning_rate"], second.places["learning_rate"]) == (
        1e-5,
        "override 'dpo.learning_rate=1e-5'",
    )
    assert (second.values["beta"], second.places["beta"]) == (0.2, "line 11")
    assert second.places["max_length"] == "default"


def test_a_commands_file_needs_its_method(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text("model: m\ntrain_dataset: d\nmax_steps: 3\n")
    (shown,) = resolve_file(path, ["max_steps=4"], "sft")
    assert (shown.values["max_steps"], shown.places["max_steps"]) == (4, "override 'max_steps=4'")
    with pytest.raises(ConfigError, match="--method sft"):
        resolve_file(path, [], None)
    with pytest.raises(ConfigError, match="did you mean 'sft'"):
        resolve_file(path, [], "sftt")
    path.write_text("train_dataset: d\n")
    with pytest.raises(ConfigError, match="model is missing"):
        resolve_file(path, [], "sft")


def test_the_command_prints_yaml_with_places(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(recipe), "dpo.beta=0.3"]) == 0
    shown = capsys.readouterr()
    assert "max_seq_length is an old name" in shown.err
    lines = {line.split(":")[0].strip(): line for line in shown.out.split("dpo:")[1].splitlines() if ":" in line}
    assert lines["beta"].split() == ["beta:", "0.3", "#", "override", "'dpo.beta=0.3'"]
    assert lines["loss_type"].split() == ["loss_type:", "[sigmoid]", "#", "default"]
    assert main(["config", "show", str(recipe), "dpo.bata=0.3"]) == 2
    assert main(["config", "show", str(recipe), "other.yaml"]) == 2
    assert main(["config", "show", "demo", "dpo.beta=0.3"]) == 0
    assert "override 'dpo.beta=0.3'" in capsys.readouterr().out


def test_explain_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "beta", "lora_r", "--method", "dpo"]) == 0
    assert "beta: a field of dpo" in (out := capsys.readouterr().out)
    assert "lora_r: a field of dpo" in out
    assert main(["config", "explain"]) == 0
    assert "The step:" in capsys.readouterr().out
    assert main(["config", "explain", "betta"]) == 2
