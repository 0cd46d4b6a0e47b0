"""Recipes: what is read, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from posttrain.config.methods import METHODS
from posttrain.config.recipe import Recipe, load_recipe, parse_recipe
from posttrain.errors import ConfigError
from posttrain.recipes import built_in_recipes

GOOD = """\
name: two
seed: 3
output_dir: runs/two
stages:
  - name: first
    method: sft
    model: m
    train_dataset: chat.jsonl
    learning_rate: 1e-3
  - name: second
    method: dpo
    model: ${first.model}
    ref_model: ${ first.model }
    train_dataset: data/${first.model}/pairs.jsonl
    seed: 9
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    return str(caught.value)


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(GOOD, "r.yaml", overrides)


def test_a_recipe_is_read() -> None:
    made = recipe()
    assert (made.name, made.seed, made.output_dir) == ("two", 3, "runs/two")
    assert [(s.name, s.method) for s in made.stages] == [("first", "sft"), ("second", "dpo")]
    assert made.stages[1].references() == [("first", "model")] * 3


def test_references_are_replaced_by_paths_and_the_seed_is_shared() -> None:
    first, second = recipe().stages
    assert first.resolve({}, seed=3).seed == 3
    fields = second.resolve({"first": {"model": "runs/m"}}, seed=3)
    assert (fields.model, fields.ref_model) == ("runs/m", "runs/m")
    assert fields.train_dataset == "data/runs/m/pairs.jsonl"
    assert fields.seed == 9


def test_overrides() -> None:
    made = recipe("first.learning_rate=5e-4", "seed=4", "output_dir=elsewhere", "second.loss_type=[sft]", "name=x")
    assert made.stages[0].values["learning_rate"] == 5e-4
    assert made.stages[1].values["loss_type"] == ["sft"]
    assert (made.seed, made.output_dir, made.name) == (4, "elsewhere", "x")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fist.learning_rate=1", "did you mean 'first'"),
        ("first.lerning_rate=1", "did you mean 'learning_rate'"),
        ("first.learning_rate=-1", "override 'first.learning_rate=-1', stage 'first': learning_rate=-1"),
        ("first", "write stage.field=value"),
        ("seed=x", "whole number"),
        ("seed=-1", "whole number"),
        ("stages=1", "no stage 'stages'"),
        ("first.output_dir=x", "set in the recipe"),
        ("first.method=dpo", "set in the recipe"),
    ],
)
def test_broken_overrides(override: str, message: str) -> None:
    assert message in refusal(GOOD, override)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: sft", "method: stf", "line 5: unknown method 'stf'; did you mean 'sft'?"),
        ("    method: sft\n", "", "line 5: no method"),
        ("learning_rate: 1e-3", "lerning_rate: 1e-3", "line 9, stage 'first': unknown field 'lerning_rate'"),
        ("learning_rate: 1e-3", "learning_rate: fast", "line 9, stage 'first': learning_rate='fast'"),
        ("    train_dataset: chat.jsonl\n", "", "line 5, stage 'first': train_dataset is missing"),
        ("${first.model}", "${fisrt.model}", "line 12, stage 'second': model refers to ${fisrt.model}, but there is"),
        ("${first.model}", "${first.data}", "has no output 'data' (it has ${first.model})"),
        ("${first.model}", "${first}", "has no output ''"),
        ("${first.model}", "${second.model}", "which is this stage itself"),
        ("model: m", "model: ${second.model}", "stage 'second' comes later; move it before 'first'"),
        ("name: second", "name: first", "line 10: a second stage 'first'"),
        ("name: second", "name: a/b", "use letters, digits, - and _"),
        ("seed: 3", "sed: 3", "line 2: unknown key 'sed'; did you mean 'seed'?"),
        ("seed: 9", "output_dir: x", "line 15, stage 'second': leave output_dir out"),
        ("seed: 9", "resume_from_checkpoint: true", "leave resume_from_checkpoint out"),
        ("learning_rate: 1e-3", "learning_rate: ${x.y}", "no stage 'x'"),
    ],
)
def test_broken_recipes(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message in refusal(GOOD.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "name: x", "stages: 3", "stages: []", "stages:\n"])
def test_a_recipe_without_stages(text: str) -> None:
    assert "a recipe needs stages" in refusal(text)


def test_a_stage_that_is_no_mapping() -> None:
    assert "r.yaml line 2: a stage holds fields" in refusal("stages:\n  - sft\n")


def test_a_reference_in_a_number_is_refused() -> None:
    assert "batch_size" in refusal(GOOD.replace("seed: 9", "per_device_train_batch_size: ${first.model}"))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("rules: {}", "rules"),
        ("rules: {1: [a]}", "rules"),
        ("temperature: 0.5", "only together with do_sample=true"),
        ("max_new_tokens: 0", "at least 1"),
    ],
)
def test_broken_pairs_stages(field: str, message: str) -> None:
    text = f"stages:\n  - method: pairs_correct\n    model: m\n    prompts: p.jsonl\n    {field}\n"
    if "rules" not in field:
        text += "    rules: {a: b}\n"
    assert message in refusal(text)


def test_the_built_in_recipes_are_right() -> None:
    assert "demo" in built_in_recipes()
    for path in built_in_recipes().values():
        made = load_recipe(path)
        assert {stage.method for stage in made.stages} <= set(METHODS)
