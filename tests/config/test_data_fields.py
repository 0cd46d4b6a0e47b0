"""What a command line and a recipe say of their data becomes what a trainer is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli.flags import read
from posttrain.config.command import GRPOCommand, SFTCommand
from posttrain.config.identity import read_paths
from posttrain.config.sources import Mixture, SourceFields
from posttrain.errors import ConfigError

MODEL = ["--model", "m"]


def given(*flags: str, name: str = "train_dataset") -> object:
    return read(SFTCommand, [*MODEL, *flags]).data(name)


def test_a_single_file_is_given_as_it_is_written() -> None:
    assert given("--train_dataset", "a.jsonl") == "a.jsonl"
    assert given("--train_dataset", "org/name:config") == "org/name:config"


def test_fields_of_the_command_are_those_of_each_source_that_has_none() -> None:
    flags = ["--train_dataset", "a.jsonl", "b.jsonl", "--columns.completion", "answer", "--train_rows", "5"]
    assert given(*flags) == Mixture(
        sources=tuple(SourceFields(path=p, columns={"completion": "answer"}, rows=5) for p in ("a.jsonl", "b.jsonl"))
    )
    source = given("--train_dataset", "{path: a.jsonl, rows: 2}", "--train_rows", "5", "--dataset_config", "main")
    assert source == SourceFields(path="a.jsonl", rows=2, config="main")


def test_weights_and_the_rule_that_ends_an_epoch() -> None:
    mixed = given("--train_dataset", "0.7:a.jsonl", "0.3:b.jsonl", "--stopping_strategy", "all_exhausted", "--no_bf16")
    assert isinstance(mixed, Mixture)
    assert (mixed.weights, mixed.stop) == ((0.7, 0.3), "all_exhausted")


def test_a_yaml_file_lists_sources(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(
        "model: m\ntrain_dataset:\n- {path: a.jsonl, weight: 0.7}\n- {path: b.jsonl, weight: 0.3, rows: 1000}\n"
    )
    mixed = read(SFTCommand, ["--config", str(file)]).data("train_dataset")
    assert [source.rows for source in mixed.sources] == [None, 1000]


def test_the_test_split_of_the_training_data_is_evaluated_on() -> None:
    flags = ["--train_dataset", "org/name", "--dataset_test_split", "test", "--eval_strategy", "epoch"]
    assert given(*flags, name="eval_dataset") == SourceFields(path="org/name", split="test")
    assert given(*flags) == "org/name"
    assert given("--train_dataset", "a.jsonl", name="eval_dataset") is None


def test_streaming_has_the_name_of_trl_too() -> None:
    assert read(SFTCommand, [*MODEL, "--train_dataset", "a.jsonl", "--dataset_streaming", "--max_steps", "3"]).streaming


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train_dataset", "0.7:a.jsonl", "b.jsonl"], "'b.jsonl' has no weight"),
        (["--train_dataset", "{path: a.jsonl, wieght: 1}"], "unknown field 'wieght'; did you mean 'weight'"),
        (["--train_dataset", "a.jsonl", "--eval_rows", "3"], "only together with an eval_dataset"),
        (["--train_dataset", "a.jsonl", "--stopping_strategy", "all_exhausted"], "several sources with weights"),
        (["--train_dataset", "[]"], "is an empty list"),
        (["--train_dataset", " "], "train_dataset is missing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(SFTCommand, [*MODEL, *flags])


def test_streaming_is_no_field_of_online_training() -> None:
    with pytest.raises(ConfigError, match="unknown field 'streaming'"):
        read(GRPOCommand, [*MODEL, "--train_dataset", "a.jsonl", "--reward_funcs", "length", "--streaming", "true"])


def test_a_stage_is_known_by_the_files_of_all_its_sources(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    pattern = str(tmp_path / "*.jsonl")
    assert read_paths(["0.7:x.jsonl", {"path": "y.jsonl"}, pattern]) == [
        "x.jsonl", "y.jsonl", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    ]  # fmt: skip
    assert read_paths("rewards.py:function") == ["rewards.py"]
    assert read_paths({"path": "a.jsonl"}) == ["a.jsonl"]
