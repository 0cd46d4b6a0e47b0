"""Schemas for editors: they take what the loader takes and refuse what it refuses."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from posttrain.config import DPOConfig, SFTConfig
from posttrain.config.methods import METHODS
from posttrain.config.recipe import load_recipe
from posttrain.config.schema import SUBJECTS, schema
from posttrain.config.yaml_file import parse_mapping, read_mapping
from posttrain.errors import ConfigError

SHIPPED = sorted(Path(__file__).parents[2].glob("posttrain/recipes/*.yaml"))


@functools.cache
def validator(subject: str) -> Draft202012Validator:
    return Draft202012Validator(schema(subject))


def complaints(subject: str, values: Any) -> list[str]:
    return [error.message for error in validator(subject).iter_errors(values)]


def stage(text: str) -> dict[str, Any]:
    return {"stages": [parse_mapping(text, "stage")[0]]}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_is_a_schema_of_its_draft(subject: str) -> None:
    found = schema(subject)
    found.pop("$defs", None)  # those of the methods, which are looked at by themselves
    Draft202012Validator.check_schema(found)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert complaints("recipe", read_mapping(path)[0]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: sft\nlearning_rat: 1.0e-4", "learning_rat"),
        ("method: sft\nbeta: 0.1", "0.1"),  # a field of another method
        ("method: sfft", "sfft"),
        ("name: sft", "method"),
        ("method: dpo\nbeta: 0", "minimum of 0"),
        ("method: dpo\nloss_type: sigmoyd", "sigmoyd"),
        ("method: sft\noutput_dir: here", "here"),  # the runner sets it
        ("method: sft\nper_device_train_batch_size: 1.5", "1.5"),
        ("method: sft\nlr_scheduler_type: cosin", "cosin"),
        ("method: sft\nname: a b", "a b"),
        ("method: sft\ntrain_dataset: [{path: a.jsonl, wieght: 0.3}]", "wieght"),
    ],
)
def test_what_the_loader_refuses_is_marked(text: str, said: str, tmp_path: Path) -> None:
    assert any(said in complaint for complaint in complaints("recipe", stage(text)))
    file = tmp_path / "recipe.yaml"
    body = "\n".join(f"    {line}" for line in text.splitlines())
    file.write_text(f"stages:\n  -\n{body}\n    model: m\n    train_dataset: d\n")
    with pytest.raises(ConfigError):
        load_recipe(file)


@pytest.mark.parametrize(
    "text",
    [
        "method: dpo\nmodel: ${sft.model}\ntrain_dataset: ${start.data}/pairs.jsonl\nref_model: ${base.model}",
        "method: dpo\nloss_type: sigmoid\nloss_weights: 2.0",  # one item stands for a list
        "method: dpo\nloss_type: [sigmoid, sft]\nloss_weights: [1.0, 3]",
        "method: grpo\nreward_funcs: final_answer\nscale_rewards: false\nstop_on_alarm: kl",
        "method: sft",  # model and data may be overrides: sft.model=...
        "method: sft\nmax_length: none\nsave_strategy: 'no'\neval_steps: null\nwarmup_steps: 0.1",
        "method: sft\nreport_to: none\nfp16: false\nuse_peft: true\nlora_target_modules: all-linear",
        "method: sft\nmodel_init_kwargs: {attn: {deep: 1}}",
        "method: evaluate\ntasks: [a, b]",
        "method: sft\ntrain_dataset: [a.jsonl, {path: b/c, split: train, columns: {text: body}, weight: 0.3}]",
        "method: sft\ntrain_dataset: {path: a.jsonl, rows: 5}",
    ],
)
def test_what_the_loader_takes_is_left_alone(text: str) -> None:
    assert complaints("recipe", stage(text)) == []


def test_the_resolved_configuration_of_a_run_is_valid() -> None:
    for subject, config in (("sft", SFTConfig()), ("dpo", DPOConfig(loss_type=["sigmoid", "sft"]))):
        assert complaints(subject, parse_mapping(config.to_yaml(), "config.yaml")[0]) == []


@pytest.mark.parametrize("method", METHODS)
def test_every_default_is_valid_and_every_field_described(method: str) -> None:
    found = schema(method)["properties"]
    for name, info in METHODS[method].fields.model_fields.items():
        assert found[name]["description"].startswith(str(info.description))
        if not info.is_required():
            assert complaints(method, {name: found[name]["default"]}) == [], name


def test_an_old_name_is_deprecated_and_gives_the_new_one() -> None:
    found = schema("sft")["properties"]
    old = found["max_seq_length"]
    assert old["deprecated"] is True
    assert "max_length" in old["description"]
    assert old["anyOf"] == found["max_length"]["anyOf"]
    assert found["overwrite_output_dir"]["deprecated"] is True
    assert "deprecated" not in found["model_name_or_path"]
    assert complaints("sft", {"max_seq_length": 1})
    assert complaints("sft", {"max_seq_length": 512}) == []


def test_a_refused_name_is_marked_with_its_reason() -> None:
    assert complaints("sft", {"max_prompt_length": 3})
    assert "max_length" in schema("sft")["properties"]["max_prompt_length"]["errorMessage"]


def test_a_gate_and_tasks_have_schemas() -> None:
    gate = {"targets": [{"task": "a", "min_gain": 0.02}], "retention": [{"task": "b", "max_loss": 0.02}]}
    assert complaints("gate", gate) == []
    assert complaints("gate", {"targets": [{"tusk": "a"}]})
    assert complaints("task", {"file": "a.jsonl", "kind": "generation"}) == []
    assert complaints("task", {"tasks": [{"file": "a.jsonl"}, {"lm_eval": "arc"}]}) == []
    assert complaints("task", {"tasks": [{"fil": "a.jsonl"}]})


def test_an_unknown_subject_leads_back() -> None:
    with pytest.raises(ConfigError, match="did you mean 'recipe'"):
        schema("recipes")
