"""`posttrain grpo` up to the point where a model would be loaded."""

from __future__ import annotations

import re

import pytest

from posttrain.cli import main as cli
from posttrain.cli.flags import read
from posttrain.config.command import GRPOCommand
from posttrain.config.methods import METHODS
from posttrain.errors import ConfigError
from posttrain.rewards.names import REWARDS

NEEDED = ["--model", "m", "--train_dataset", "d.jsonl", "--reward_funcs", "boxed_answer"]


def grpo(*words: str) -> GRPOCommand:
    return read(GRPOCommand, [*NEEDED, *words])


def test_help_shows_every_field_and_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grpo", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: posttrain grpo --model MODEL --train_dataset FILE --reward_funcs REWARD [--config")
    for name in METHODS["grpo"].fields.model_fields:
        assert f"--{name} " in page


def test_the_rewards_named_in_help_and_hints_exist(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["grpo", "--help"])
    assert re.search(r"--reward_funcs (\w+) ", capsys.readouterr().out.split("Example:")[1])[1] in REWARDS
    with pytest.raises(ConfigError) as caught:
        read(GRPOCommand, [*NEEDED[:-1], "[]"])
    assert re.search(r"such as (\w+)", str(caught.value))[1] in REWARDS


def test_flags() -> None:
    assert grpo("--control", "random-reward").control == "random-reward"
    assert grpo("--stop_on_alarm").stop_on_alarm is True
    assert grpo("--stop_on_alarm", "entropy", "length").stop_on_alarm == ["entropy", "length"]
    assert grpo("--stop-on-alarm", "signal").stop_on_alarm == ["signal"]
    assert grpo("--scale_rewards", "none").scale_rewards == "none"
    assert grpo("--scale_rewards", "false").scale_rewards == "none"
    assert grpo("--generation_kwargs", "{stop: ['###']}").stop == ("###",)
    assert grpo("--reward_options.boxed_answer.column", "answer").reward_options == {
        "boxed_answer": {"column": "answer"}
    }
    assert grpo("--no_track_kl", "--shuffle_dataset", "false").train_sampling_strategy == "sequential"
    several = read(GRPOCommand, [*NEEDED[:-1], "boxed_answer", "mine.py:short", "--reward_weights", "1", "0.5"])
    assert (several.reward_funcs, several.reward_weights) == (["boxed_answer", "mine.py:short"], [1.0, 0.5])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_generations", "1"], "--num_generations: num_generations=1: a group of one has no baseline"),
        (["--num_generations", "3"], "--num_generations: a rollout holds whole groups of num_generations=3"),
        (["--num_generation", "4"], "did you mean 'num_generations'"),
        (["--control", "random"], "did you mean 'random-reward'"),
        (["--use_vllm"], "--use_vllm: use_vllm=True is not possible here"),
        (["--temperature", "0"], "--temperature: temperature=0 "),
        (["--reward_options.boxed_answr.column", "answer"], "did you mean 'boxed_answer'"),
    ],
)
def test_broken_command_lines(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo(*words)
    assert message in str(caught.value)


def test_a_command_without_a_reward_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grpo", "--model", "m", "--train_dataset", "d.jsonl"]) == 2
    assert "posttrain: command line: reward_funcs is missing: Rewards: built-in names" in capsys.readouterr().err
