"""What `posttrain config explain` says of fields, of names of TRL, and of typing errors."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import trl

from posttrain.config.explain import DEFAULTS_OF_TRL, SHAPES, example_value, explain, headings
from posttrain.config.related import checked_together
from posttrain.errors import ConfigError


def test_a_field_says_what_it_is_in_each_method() -> None:
    text = explain("beta")
    assert text.startswith("beta: a field of ")
    assert "  dpo: How strongly the policy is held to the reference" in text
    assert "  grpo: Weight of the KL" in text
    assert "In ppo: it is refused: the KL is in the rewards" in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("learning_rate", "sft", "Default 2.0e-05"),
        ("learning_rate", "dpo", "Default 1.0e-06"),
        ("--learning-rate=3", "sft", "learning_rate: a field of sft"),
        ("dpo_beta", None, "did you mean"),
        ("max_length", "sft", "Old names that set it: max_seq_length"),
        ("model", "sft", "Other names: model_name_or_path"),
        ("assistant_only_loss", "sft", "TRL's default is false"),
        ("lora_r", "sft", "a whole number of at least 1"),
        ("loss_weights", "dpo", "Checked together with loss_type"),
        ("truncation_mode", "dpo", "one of keep_start, keep_end"),
        ("max_seq_length", "sft", "it is called max_length now"),
        ("overwrite_output_dir", "sft", "no effect any more"),
        ("evaluation_strategy", None, "it is called eval_strategy now"),
        ("max_prompt_length", "sft", "it is refused"),
        ("loss_type", "dpo", "Not kto_pair:"),
        ("targets", "gate", "Tasks that must gain"),
        ("lm_eval", "task", "lm-evaluation-harness"),
        ("data_collator", None, "leave it out"),
        ("tokenizer", "dpo", "it is called processing_class now"),
        ("RLOOTrainer", None, "GRPOTrainer"),
        ("lerning_rate", None, "did you mean 'learning_rate'"),
        ("beta", "filter", "dpo, cpo"),
        ("beta", "sftt", "did you mean 'sft'"),
    ],
)
def test_a_name_leads_to_what_to_write(name: str, method: str | None, said: str) -> None:
    try:
        text = explain(name, method)
    except ConfigError as error:
        text = str(error)
    assert said in " ".join(text.split())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_name_is_explained_with_an_example_that_is_allowed(shape: type) -> None:
    method = next(name for name, known in SHAPES.items() if known is shape)
    for name in shape.model_fields:
        assert f"{name}: " in explain(name, method)
        value = example_value(shape, name)
        if not isinstance(value, bool | int | float):  # what a text or a mapping holds is not known
            continue
        shape.model_rebuild()
        shape.__pydantic_validator__.validate_assignment(shape.model_construct(), name, value)
    for name in [*shape.renamed, *shape.fixed, *shape.no_effect, *shape.unsupported]:
        assert "no field" in explain(name, method)


def test_without_a_name_all_fields_stand_under_their_headings() -> None:
    text = headings("dpo")
    assert "LoRA:\n" in text
    assert "Pairs:\n" in text
    for name in SHAPES["dpo"].model_fields:
        assert name in text


def test_fields_checked_together_are_read_from_the_checks() -> None:
    together = checked_together(SHAPES["dpo"])
    assert {"loss_type"} <= together["loss_weights"]
    assert {"sync_ref_model"} <= together["ref_model_sync_steps"]
    assert "seed" not in together
    assert {"save_strategy", "save_total_limit"} <= together["gate"]


@pytest.mark.parametrize("method", ["sft", "dpo", "reward", "grpo", "kto"])
def test_the_defaults_are_those_of_trl_or_the_deviation_is_told(method: str) -> None:
    if method not in SHAPES:
        pytest.skip("not there yet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {"sft": "SFT", "dpo": "DPO", "reward": "Reward", "grpo": "GRPO", "kto": "KTO"}[method]
        fields = dataclasses.fields(getattr(trl, f"{theirs}Config"))
    ours = SHAPES[method].model_fields
    for field in fields:
        if field.name not in ours or field.name == "output_dir":
            continue
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        mine = ours[field.name].get_default(call_default_factory=True)
        if getattr(default, "value", default) != mine:
            assert DEFAULTS_OF_TRL[field.name][0] == getattr(default, "value", default), (field.name, default, mine)
