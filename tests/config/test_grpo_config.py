"""GRPOConfig: what goes together, what a rollout holds, and TRL's fields and defaults."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import GRPOConfig
from posttrain.config.base import choices
from posttrain.config.command import GRPOCommand
from posttrain.config.names import TRAINING_FIXED, Fixed
from posttrain.config.recipe import load_recipe, parse_recipe
from posttrain.config.rollout_size import RolloutSize
from posttrain.errors import ConfigError, DataError
from posttrain.recipes.pipeline import run_recipe
from posttrain.recipes.stage_key import stage_key
from posttrain.sources.guards import ALARMS

COMMAND = {"model": "m", "train_dataset": "d.jsonl", "reward_funcs": ["boxed_answer"]}


def refusal(config: type[GRPOConfig] = GRPOConfig, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(**values)
    return str(caught.value)


# TRL

# what TRL's default means here instead, with the reason
FIXED_OTHERWISE = {
    "disable_dropout": "the log-probabilities of a completion are those of the model that wrote it",
}


def test_trl_s_defaults_are_accepted_or_said_to_differ() -> None:
    """Each default of a GRPO field that can have one value only here is that value."""
    trl = pytest.importorskip("trl", reason="trl is not installed; it comes with the test extra")
    checked = GRPOConfig.fixed.keys() - TRAINING_FIXED.keys() - FIXED_OTHERWISE.keys()
    assert len(checked) >= 12
    for name in checked:
        assert trl.GRPOConfig.__dataclass_fields__[name].default in GRPOConfig.fixed[name].values, name


def test_defaults_are_those_of_trl() -> None:
    made = GRPOConfig()
    assert (made.learning_rate, made.num_generations, made.max_completion_length) == (1e-6, 8, 512)
    assert (made.beta, made.loss_type, made.epsilon, made.scale_rewards) == (0.0, "dapo", 0.2, "group")
    assert (made.temperature, made.top_p, made.top_k, made.num_iterations) == (1.0, 1.0, 0, 1)
    assert made.remove_unused_columns is False


def test_the_tutorial_s_fields_are_accepted() -> None:
    with pytest.warns(FutureWarning, match="use_cpu"):
        made = GRPOConfig(
            per_device_train_batch_size=1, gradient_accumulation_steps=8, num_generations=4, num_train_epochs=1,
            learning_rate=5e-6, logging_steps=2, no_cuda=True,
        )  # fmt: skip
    assert made.rollout_size() == 8
    assert made.steps_per_pass() == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"scale_rewards": True}, {"scale_rewards": "group"}),
        ({"scale_rewards": False}, {"scale_rewards": "none"}),
        ({"shuffle_dataset": False}, {"train_sampling_strategy": "sequential"}),
        ({"shuffle_dataset": True}, {}),
        ({"reward_weights": 2}, {"reward_weights": [2.0]}),
        ({"stop_on_alarm": "entropy"}, {"stop_on_alarm": ["entropy"]}),
    ],
)
def test_other_ways_to_say_it(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert GRPOConfig(**old).to_dict() == GRPOConfig(**new).to_dict()


@pytest.mark.parametrize("value", [512, None])
def test_max_prompt_length_is_taken_with_a_word(value: Any) -> None:
    with pytest.warns(FutureWarning, match="prompts are never cut"):
        assert GRPOConfig(max_prompt_length=value) == GRPOConfig()


def test_vllm_s_options_say_that_they_do_nothing_and_vllm_is_refused() -> None:
    with pytest.warns(UserWarning, match="use_vllm, which is off"):
        GRPOConfig(use_vllm=False, vllm_gpu_memory_utilization=0.4)
    assert "drawn by the sampler of this package" in refusal(use_vllm=True, num_generations=4)


def test_every_fixed_name_has_a_reason() -> None:
    assert all(isinstance(fixed, Fixed) and len(fixed.reason) > 20 for fixed in GRPOConfig.fixed.values())


# What goes together


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_generations": 1}, ("num_generations=1", "no baseline", "2 or more")),
        ({"temperature": 0}, ("temperature=0", "all be the same", "1.0")),
        ({"temperature": 0.0}, ("temperature=0.0", "all be the same")),
        ({"top_k": -1}, ("top_k=-1", "0 for all")),
        ({"top_p": 0}, ("top_p=0", "above 0 and at most 1")),
        ({"entropy_coef": -0.1}, ("entropy_coef=-0.1", "at least 0")),
        ({"epsilon": 1.0}, ("epsilon=1.0", "below 1")),
        ({"epsilon_high": 0.1}, ("epsilon_high=0.1", "epsilon=0.2", "0.28")),
        ({"delta": 1.2}, ("delta=1.2", "clip range", "4.0")),
        ({"delta": 1.25, "epsilon_high": 0.28}, ("delta=1.25", "ends at 1.28")),
        ({"delta": 0.9}, ("delta=0.9", "above 1")),
        ({"loss_type": "cispo"}, ("epsilon_high=None", "epsilon_high=5.0")),
        ({"loss_type": "cispo", "epsilon_high": 0.28}, ("epsilon_high=0.28", "epsilon_high=5.0")),
        ({"loss_type": "cispo", "epsilon_high": 5, "epsilon": 0.3}, ("epsilon=0.3", "no effect", "leave it out")),
        ({"loss_type": "cispo", "epsilon_high": 5, "delta": 9}, ("delta=9", "no effect")),
        (
            {"loss_type": "cispo", "epsilon_high": 5, "importance_sampling_level": "sequence"},
            ("importance_sampling_level='sequence'", "loss_type='grpo' for GSPO"),
        ),
        ({"loss_type": "sapo"}, ("loss_type='sapo'", "use dapo")),
        ({"max_resamples": 2}, ("max_resamples", "dynamic_sampling=True")),
        ({"num_completions_to_print": 2}, ("num_completions_to_print", "log_completions=True")),
        ({"reward_weights": [0, 0]}, ("reward_weights", "trains nothing")),
        ({"reward_weights": []}, ("reward_weights", "trains nothing")),
        ({"max_kl": 0.1, "track_kl": False}, ("max_kl", "track_kl=True")),
        ({"stop_on_alarm": ["kl"]}, ("stop_on_alarm", "max_kl")),
        ({"stop_on_alarm": []}, ("stop_on_alarm", "false for none")),
        (
            {"stop_on_alarm": ["entorpy"]},
            ("stop_on_alarm=['entorpy']", "one of entropy, length, kl, signal, truncation"),
        ),
        ({"control": "random"}, ("control='random'", "random-reward")),
        ({"remove_unused_columns": True}, ("remove_unused_columns=True", "rewards", "leave it out")),
        ({"dataloader_drop_last": True}, ("dataloader_drop_last=True", "filled up", "leave it out")),
        ({"train_sampling_strategy": "group_by_length"}, ("group_by_length", "use random")),
        ({"generation_kwargs": {"top_p": 0.9}}, ("generation_kwargs['top_p']", "top_p=0.9")),
        ({"generation_kwargs": {"num_beams": 2}}, ("generation_kwargs['num_beams']", "stop_strings")),
        ({"generation_kwargs": {"stop": [""]}}, ("generation_kwargs['stop']", "a list of texts")),
        ({"generation_kwargs": {"stop_strings": 3}}, ("generation_kwargs['stop_strings']=3", "a list of texts")),
        ({"chat_template_kwargs": {"tokenize": True}}, ("chat_template_kwargs['tokenize']", "leave it out")),
        ({"reward_funcs": ["boxed_answer"]}, ("reward_funcs", "belongs to the trainer")),
        ({"max_length": 512}, ("max_length", "max_completion_length")),
        ({"disable_dropout": False}, ("disable_dropout=False", "only True")),
        ({"num_generation": 4}, ("unknown field 'num_generation'", "did you mean 'num_generations'")),
    ],
)
def test_what_is_refused_names_the_field_and_the_remedy(values: dict[str, Any], words: tuple[str, ...]) -> None:
    text = refusal(**values)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "values",
    [
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"epsilon": 3e-4, "epsilon_high": 4e-4, "importance_sampling_level": "sequence", "loss_type": "grpo"},
        {"epsilon_high": 0.28, "delta": 4.0, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "beta": 0.04},
        {"advantage_baseline": "leave_one_out", "scale_rewards": False, "loss_type": "dr_grpo"},
        {"dynamic_sampling": True, "max_resamples": 8, "stop_on_alarm": True, "max_kl": 0.2},
        {"max_kl": 0.1, "track_kl": False, "beta": 0.1, "stop_on_alarm": ["kl", "length"]},
        {"log_completions": True, "num_completions_to_print": 2, "num_generations_eval": 1},
    ],
)
def test_what_goes_together_is_taken_and_read_back(values: dict[str, Any], tmp_path: Path) -> None:
    made = GRPOConfig(**values)
    (tmp_path / "grpo.yaml").write_text(made.to_yaml())
    assert GRPOConfig.from_yaml(tmp_path / "grpo.yaml").to_dict() == made.to_dict()


def test_stop_texts_come_under_either_name() -> None:
    assert GRPOConfig().stop == ()
    assert GRPOConfig(generation_kwargs={"stop": "\n\n"}).stop == ("\n\n",)
    assert GRPOConfig(generation_kwargs={"stop": "b", "stop_strings": ["a", "c"]}).stop == ("a", "c", "b")


def test_the_alarms_that_can_be_named_are_those_there_are() -> None:
    assert set(choices(GRPOConfig.model_fields["stop_on_alarm"].annotation)) == set(ALARMS)


# The size of a rollout


def test_a_rollout_worked_by_hand() -> None:
    made = GRPOConfig(
        per_device_train_batch_size=4, gradient_accumulation_steps=2, steps_per_generation=6, num_generations=8
    )
    assert (made.micro_steps(), made.rollout_size(), made.steps_per_pass()) == (6, 24, 3)  # three groups, three steps
    made = GRPOConfig(per_device_train_batch_size=4, generation_batch_size=32, num_generations=4)
    assert (made.micro_steps(), made.rollout_size(), made.steps_per_pass()) == (8, 32, 8)
    assert (made.micro_steps(2), made.rollout_size(2)) == (4, 16)
    with pytest.raises(ConfigError, match="5 processes: generation_batch_size=32 is no whole number of micro-steps"):
        made.micro_steps(5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"per_device_train_batch_size": 6, "num_generations": 4},
            ("6 x 1 = 6", "num_generations=3 or 6", "per_device_train_batch_size=4 or 8", "accumulation_steps=2"),
        ),
        (
            {"per_device_train_batch_size": 6, "steps_per_generation": 3, "num_generations": 4},
            ("6 x 3 = 18", "num_generations=3 or 6", "per_device_train_batch_size=4 or 8", "generation=2 or 4"),
        ),
        ({"per_device_train_batch_size": 1}, ("1 x 1 = 1", "=8, or gradient_accumulation_steps=8")),
        (
            {"generation_batch_size": 24, "num_generations": 5},
            ("generation_batch_size=24", "num_generations=4 or 6", "generation_batch_size=40"),
        ),
        ({"generation_batch_size": 12}, ("generation_batch_size=12", "per_device_train_batch_size=8", "8 or 16")),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 6},
            ("steps_per_generation=6", "older weights", "steps_per_generation=4 or 8"),
        ),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 2},
            ("steps_per_generation=2", "one larger rollout", "steps_per_generation=4,"),
        ),
        (
            {"gradient_accumulation_steps": 3, "generation_batch_size": 32},
            ("generation_batch_size=32, which is 4 micro-steps", "generation_batch_size=24 or 48"),
        ),
        ({"generation_batch_size": 8, "steps_per_generation": 1}, ("steps_per_generation=1", "keep one")),
    ],
)
def test_rollouts_that_are_not_whole_name_what_would_fit(values: dict[str, Any], words: tuple[str, ...]) -> None:
    text = refusal(**values)
    for word in words:
        assert word in text


def sizes() -> list[RolloutSize]:
    """Every small way to say it."""
    made = []
    for per_device, accumulation, group, said, processes in product(
        (1, 2, 3, 4), (1, 2, 3), (2, 3, 4), (None, 1, 2, 3, 6), (1, 2, 3)
    ):
        common = {"per_device": per_device, "accumulation": accumulation, "group": group, "processes": processes}
        made.append(RolloutSize(**common, steps_per_generation=said, generation_batch_size=None))
        made.append(RolloutSize(**common, steps_per_generation=None, generation_batch_size=said and 6 * said))
    return made


def test_a_rollout_is_refused_just_when_something_is_cut() -> None:
    for size in sizes():
        total = size.generation_batch_size
        completions = size.per_device * size.micro_steps
        whole = (
            (total is None or total == completions * size.processes)
            and size.micro_steps >= 1
            and size.micro_steps % size.accumulation == 0
            and completions % size.group == 0
        )
        assert (size.problem() is None) == whole, size


def test_what_is_whole_in_several_processes_is_so_in_one() -> None:
    """The configuration, which does not know how many there will be, asks for one."""
    for size in sizes():
        alone = RolloutSize(
            per_device=size.per_device, accumulation=size.accumulation, group=size.group, processes=1,
            steps_per_generation=size.steps_per_generation, generation_batch_size=size.generation_batch_size,
        )  # fmt: skip
        assert size.problem() is not None or alone.problem() is None, size


def test_every_remedy_named_is_one() -> None:
    """What the message tells to write is taken, each value on its own."""
    for per_device, accumulation, group in product((1, 3, 4, 6), (1, 2, 3), (2, 4, 5)):
        values = {
            "per_device_train_batch_size": per_device, "gradient_accumulation_steps": accumulation,
            "num_generations": group,
        }  # fmt: skip
        if per_device * accumulation % group == 0:
            continue
        remedies = refusal(**values).split("; write ")[1].split(", or ")
        assert len(remedies) >= 2
        for remedy in remedies:
            name, _, fitting = remedy.partition("=")
            for value in fitting.split(" or "):
                made = GRPOConfig(**{**values, name: int(value)})
                assert math.gcd(made.rollout_size(), made.num_generations) == made.num_generations


# The command and recipes


def test_a_command_hands_its_training_fields_on() -> None:
    command = GRPOCommand(**COMMAND, num_generations=4, max_kl=0.2)
    assert command.training() == GRPOConfig(num_generations=4, max_kl=0.2)
    assert GRPOCommand(**{**COMMAND, "reward_funcs": "boxed_answer"}).reward_funcs == ["boxed_answer"]


def test_rewards_carry_their_options() -> None:
    both = {"reward_funcs": ["boxed_answer", "length"], "reward_options": {"length": {"target": 50}}}
    command = GRPOCommand(**{**COMMAND, **both})
    assert command.rewards() == ["boxed_answer", {"name": "length", "target": 50}]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reward_funcs": []}, ("names no reward", "boxed_answer")),
        ({"reward_funcs": [" "]}, ("names no reward",)),
        ({"reward_funcs": None}, ("reward_funcs is missing",)),
        ({"reward_funcs": ["boxed_answer", "boxed_answer"]}, ("'boxed_answer' twice", "reward_weights")),
        ({"reward_weights": [1, 2]}, ("2 values for 1 rewards (boxed_answer)", "one weight for each")),
        ({"reward_options": {"boxed_answr": {}}}, ("'boxed_answr'", "did you mean 'boxed_answer'")),
        ({"reward_options": {"boxed_answer": 3}}, ("reward_options=",)),
        ({"eval_strategy": "steps"}, ("needs an eval_dataset",)),
        ({"reward_model_name_or_path": "m"}, ("file.py:function",)),
    ],
)
def test_what_a_command_refuses(values: dict[str, Any], words: tuple[str, ...]) -> None:
    text = refusal(GRPOCommand, **{**COMMAND, **values})
    for word in words:
        assert word in text


RECIPE = """\
output_dir: {home}/out
stages:
  - name: sft
    method: sft
    model: m
    train_dataset: chat.jsonl
  - name: grpo
    method: grpo
    model: ${{sft.model}}
    train_dataset: problems.jsonl
    reward_funcs: [boxed_answer, {home}/mine.py:short]
    reward_options: {{boxed_answer: {{column: answer}}}}
    num_generations: 4
  - name: again
    method: sft
    model: ${{grpo.model}}
    train_dataset: ${{grpo.samples}}
"""


def test_a_recipe_can_have_a_grpo_stage(tmp_path: Path) -> None:
    made = parse_recipe(RECIPE.format(home=tmp_path), "r.yaml", ["grpo.control=random-reward"])
    fields = made.stage("grpo").resolve({"sft": {"model": "runs/m"}})
    assert isinstance(fields, GRPOCommand)
    assert (fields.model, fields.control) == ("runs/m", "random-reward")
    assert made.stage("again").references() == [("grpo", "model"), ("grpo", "samples")]
    with pytest.raises(ConfigError, match=r"line 7, stage 'grpo': reward_funcs is missing"):
        parse_recipe(
            RECIPE.format(home=tmp_path).replace("reward_funcs: [boxed_answer", "logging_steps: 3 #"), "r.yaml"
        )


def test_a_file_of_rewards_that_is_not_there_is_found_before_the_first_stage(tmp_path: Path) -> None:
    for name in ("chat", "problems"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "min.py").write_text("")
    text = RECIPE.format(home=tmp_path)
    for name in ("chat", "problems"):
        text = text.replace(f" {name}.jsonl", f" {tmp_path}/{name}.jsonl")
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DataError, match=r"reward_funcs=.*mine\.py' does not exist; did you mean 'min\.py'"):
        run_recipe(load_recipe(tmp_path / "r.yaml"))
    assert not (tmp_path / "out").exists()


def test_a_stage_runs_anew_when_a_reward_s_file_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def short(completions, **_): ...")
    command = GRPOCommand(**{**COMMAND, "reward_funcs": ["boxed_answer", f"{file}:short"]})
    reads = ("model", "reward_funcs")
    before = stage_key("grpo", command, reads)
    assert stage_key("grpo", command, reads) == before
    file.write_text("def short(completions, **_): return [0.0] * len(completions)")
    assert stage_key("grpo", command, reads)["inputs"]["reward_funcs"] != before["inputs"]["reward_funcs"]
    other = GRPOCommand(**{**COMMAND, "reward_funcs": ["boxed_answer", f"{file}:long"]})
    assert stage_key("grpo", other, reads)["inputs"] != stage_key("grpo", command, reads)["inputs"]
