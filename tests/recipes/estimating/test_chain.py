"""What stands for a stage's model and data before the stages that write them have run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from posttrain.config.recipe import load_recipe
from posttrain.errors import ConfigError
from posttrain.recipes.estimating.chain import links
from posttrain.recipes.estimating.stages import estimate_recipe, open_recipe
from posttrain.recipes.pipeline import StageRecord
from posttrain.recipes.stage_key import stage_key

RECIPE = {
    "stages": [
        {"name": "start", "method": "embedded", "model": "base", "chat_rows": 3, "problem_rows": 3},
        {"name": "sft", "method": "sft", "model": "${start.model}", "train_dataset": "${start.data}/chat.jsonl"},
        {
            "name": "pairs",
            "method": "pairs_correct",
            "model": "${sft.model}",
            "prompts": "p.jsonl",
            "rules": {"a": "b"},
        },
        {"name": "dpo", "method": "dpo", "model": "${sft.model}", "train_dataset": "${pairs.data}"},
        {"name": "last", "method": "sft", "model": "${dpo.model}", "train_dataset": "${start.data}/chat.jsonl"},
    ]
}


def write(place: Path, **more: object) -> str:
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(place / "out"), **RECIPE, **more}))
    return str(file)


def test_a_model_is_stood_for_by_the_one_it_starts_from(tmp_path: Path) -> None:
    found = {link.stage.name: link for link in links(load_recipe(write(tmp_path)), tmp_path / "scratch")}
    assert [name for name, link in found.items() if link.trains] == ["sft", "dpo", "last"]
    assert found["sft"].fields.model == "base"
    assert found["sft"].notes == ()
    assert Path(found["sft"].fields.train_dataset).is_file()  # the embedded world was written aside
    assert found["dpo"].fields.model == "base"
    assert "stage 'sft' does not exist yet" in found["dpo"].notes[0]
    assert found["dpo"].missing == {"train_dataset": "${pairs.data}"}
    assert not (tmp_path / "out").exists()


def test_a_stage_without_data_still_says_what_its_model_is_like(tmp_path: Path) -> None:
    last = links(load_recipe(write(tmp_path)), tmp_path / "scratch")[-1]
    assert last.missing == {}
    assert last.fields.model == "base"


def test_a_reward_model_is_stood_for_by_nothing(tmp_path: Path) -> None:
    stages = [
        {"name": "reward", "method": "reward", "model": "base", "train_dataset": "pairs.jsonl"},
        {
            "name": "grpo", "method": "grpo", "model": "base", "train_dataset": "p.jsonl",
            "reward_funcs": ["${reward.model}"],
        },
    ]  # fmt: skip
    assert links(load_recipe(write(tmp_path, stages=stages)), tmp_path / "scratch")[1].missing == {
        "reward_funcs": "${reward.model}"
    }


def test_a_finished_stage_gives_what_it_wrote(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    stage, home = recipe.stage("start"), tmp_path / "out" / "start"
    key = stage_key(stage.method, stage.resolve({}, **recipe.defaults(stage)), stage.shape.reads)
    outputs = {"model": "there", "data": str(tmp_path)}
    StageRecord(status="finished", key=key, outputs=outputs, summary={}, time_s=1.0).write(home)
    first, sft = links(recipe, tmp_path / "scratch")[:2]
    assert first.finished
    assert sft.fields.model == "there"
    assert not sft.finished
    changed = load_recipe(write(tmp_path), ["start.chat_rows=4"])
    first, sft = links(changed, tmp_path / "scratch")[:2]
    assert not first.finished
    assert "would run anew" in sft.notes[0]


def test_what_is_missing_is_named_and_nothing_is_tried(tmp_path: Path) -> None:
    asked = []

    def probe(method: str, fields: object, *, seconds: float) -> list[dict[str, str]]:
        asked.append((method, seconds))
        return [{"event": "error", "text": "no"}]

    made = estimate_recipe(load_recipe(write(tmp_path)), seconds=1.0, probe=probe)
    # of the second the weights can be counted, and nothing tried
    assert asked == [("sft", 1.0), ("dpo", 0.0), ("sft", 1.0)]
    assert [estimate.status for estimate in made] == ["not estimated"] * 3
    assert "stage 'pairs' has not written yet" in made[1].why
    assert [e.stage for e in estimate_recipe(load_recipe(write(tmp_path)), seconds=0, only="last", probe=probe)] == [
        "last"
    ]
    with pytest.raises(ConfigError, match="no stage 'lst'; did you mean 'last'"):
        estimate_recipe(load_recipe(write(tmp_path)), seconds=0, only="lst", probe=probe)


def test_a_file_of_one_method_is_a_recipe_of_one_stage(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("model: base\ntrain_dataset: chat.jsonl\noutput_dir: here\nlearning_rate: 1e-4\n")
    recipe = open_recipe(str(file), ["learning_rate=2e-4"], method="sft")
    assert recipe.output_dir == "here"
    assert recipe.stages[0].values["learning_rate"] == 2e-4
    with pytest.raises(ConfigError, match="add --method, one of sft"):
        open_recipe(str(file), [])
    with pytest.raises(ConfigError, match="unknown field 'learning_rat'; did you mean 'learning_rate'"):
        open_recipe(str(file), ["learning_rat=1"], method="sft")
    with pytest.raises(ConfigError, match="no recipe 'dmo': neither a file nor built in; did you mean 'demo'"):
        open_recipe("dmo", [])
