"""Files of Axolotl as recipes: what is carried over, what is written out, and what is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.config.imports import import_file
from posttrain.config.imports.axolotl_keys import KEYS, SAME
from posttrain.config.imports.translation import Imported
from posttrain.config.imports.writing import recipe_text
from posttrain.config.recipe import load_recipe
from posttrain.errors import ConfigError

ROWS = "datasets: [{path: rows.jsonl, type: alpaca}]"


def imported(tmp_path: Path, text: str, *, rows: str = ROWS) -> Imported:
    path = tmp_path / "axolotl.yml"
    path.write_text(f"base_model: base\n{rows}\n{text}")
    return import_file(path)


def reasons(found: Imported) -> dict[str, str]:
    return {note.name: note.text for note in found.lost}


@pytest.mark.parametrize(
    ("text", "method", "values"),
    [
        ("sequence_len: 1000\nmicro_batch_size: 2", "sft", {"max_length": 1000, "per_device_train_batch_size": 2,
                                                            "use_peft": None}),
        ("micro_batch_size: 2\nbatch_size: 8", "sft", {"gradient_accumulation_steps": 4}),
        ("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true", "sft",
         {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": "all-linear", "lora_dropout": 0.0}),
        ("lora_r: 4\nlora_alpha: 8", "sft", {"lora_r": None}),  # without adapter it is read by nobody
        ("adapter: qlora\nload_in_4bit: true", "sft", {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        ("adapter: lora\npeft_use_dora: true\nlora_target_modules: [q_proj]", "sft",
         {"use_dora": True, "lora_target_modules": ["q_proj"]}),
        ("num_epochs: 4\nsaves_per_epoch: 2", "sft", {"save_strategy": "steps", "save_steps": 0.125}),
        ("saves_per_epoch: 1", "sft", {"save_strategy": "epoch"}),
        ("cosine_min_lr_ratio: 0.1", "sft", {"lr_scheduler_type": "cosine_with_min_lr",
                                             "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
        ("optimizer: adamw_torch\nlr_scheduler: linear\nwarmup_ratio: 0.2", "sft",
         {"optim": "adamw_torch", "lr_scheduler_type": "linear", "warmup_steps": 0.2}),
        ("bf16: auto", "sft", {"bf16": None}),
        ("sample_packing: true", "sft", {"packing": True}),
        ("train_on_inputs: true", "sft", {"assistant_only_loss": False}),
        ("group_by_length: true", "sft", {"train_sampling_strategy": "group_by_length"}),
        ("noisy_embedding_alpha: 5", "sft", {"neftune_noise_alpha": 5}),
        ("special_tokens: {pad_token: <pad>, bos_token: <s>}", "sft", {"pad_token": "<pad>"}),
        ("special_tokens: {additional_special_tokens: [<a>]}\ntokens: [<b>]", "sft",
         {"add_special_tokens": ["<a>"], "add_tokens": ["<b>"]}),
        ("excess_length_strategy: truncate", "sft", {"long_rows": "cut"}),
        ("chat_template: phi_3", "sft", {"chat_template_path": "phi3"}),
        ("rl: dpo\nrl_beta: 0.2", "dpo", {"beta": 0.2, "loss_type": None}),
        ("rl: ipo\ndpo_beta: 0.3", "dpo", {"beta": 0.3, "loss_type": ["ipo"]}),
        ("rl: orpo\norpo_alpha: 0.2", "orpo", {"beta": 0.2}),
        ("rl: simpo\nrl_beta: 2.0\nsimpo_gamma: 1.0\ncpo_alpha: 0.5", "cpo",
         {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.5}),
        ("rl: kto\nkto_undesirable_weight: 0.2", "kto", {"undesirable_weight": 0.2}),
        ("reward_model: true\ncenter_rewards_coefficient: 0.01", "reward", {"center_rewards_coefficient": 0.01}),
        ("rl: grpo\nmicro_batch_size: 4\ntrl: {num_generations: 4, max_completion_length: 64, beta: 0.02, "
         "reward_funcs: [mine.right], temperature: 0.9}", "grpo",
         {"num_generations": 4, "max_completion_length": 64, "beta": 0.02, "reward_funcs": ["mine:right"],
          "temperature": 0.9, "max_length": None}),
    ],
)  # fmt: skip
def test_a_key_becomes_the_field_that_means_the_same(
    text: str, method: str, values: dict[str, Any], tmp_path: Path
) -> None:
    found = imported(tmp_path, text)
    assert found.method == method
    assert {name: found.values.get(name) for name in values} == values


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("rl: dpo\nsample_packing: true", "sample_packing", "it belongs to SFT"),
        ("val_set_size: 0.1", "val_set_size", "eval_dataset"),
        ("evals_per_epoch: 4", "evals_per_epoch", "nothing to evaluate on"),
        ("adapter: llama-adapter", "adapter", "LoRA"),
        ("chat_template: command_a", "chat_template", "chat_template_path"),
        ("chat_template_jinja: '{% for m in messages %}'", "chat_template_jinja", "to a file"),
        ("adapter: lora\nlora_target_modules: 'layers.[0-9]+.mlp.up_proj'", "lora_target_modules", "all-linear"),
        ("deepspeed: zero3.json", "deepspeed", "torchrun"),
        ("context_parallel_size: 4", "context_parallel_size", "torchrun"),
        ("lr_scheduler: rex", "lr_scheduler", "is not allowed"),
        ("loraplus_lr_ratio: 16", "loraplus_lr_ratio", "one learning rate"),
        ("micro_batch_size: 3\nbatch_size: 8", "batch_size", "no multiple"),
        ("trl: {use_vllm: true}\nrl: grpo\nmicro_batch_size: 8", "trl.use_vllm", "sampler"),
        ("trl: {vllm_anything: 1}\nrl: grpo\nmicro_batch_size: 8", "trl.vllm_anything", "sampler"),
        ("relora_prune_ratio: 0.9", "relora_prune_ratio", "not here"),
        ("trl: {new_thing: 1}\nrl: grpo\nmicro_batch_size: 8", "trl.new_thing", "no key of Axolotl"),
        ("a_new_key: 1", "a_new_key", "no key of Axolotl"),
    ],
)
def test_what_does_not_carry_over_is_listed_with_its_reason(text: str, name: str, said: str, tmp_path: Path) -> None:
    found = imported(tmp_path, text)
    assert said in reasons(found)[name]
    assert f"{name}: " in recipe_text(found).split("# Not carried over:")[1]


def test_a_schedule_that_is_not_there_leaves_the_default_of_axolotl(tmp_path: Path) -> None:
    assert imported(tmp_path, "lr_scheduler: rex").values["lr_scheduler_type"] == "cosine"


@pytest.mark.parametrize("text", ["sample_packing: false", "val_set_size: 0.0", "deepspeed:", "load_in_8bit: false",
                                  "context_parallel_size: 1", "fp16: false", "special_tokens: {}"])  # fmt: skip
def test_values_that_ask_for_nothing_are_no_loss(text: str, tmp_path: Path) -> None:
    assert not imported(tmp_path, text).lost


def test_defaults_that_differ_are_written_out_and_marked(tmp_path: Path) -> None:
    found = imported(tmp_path, "learning_rate: 1e-4")
    assert {name: found.values[name] for name in found.written_out()} == {
        "per_device_train_batch_size": 1, "num_train_epochs": 1.0, "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
        "max_length": 512, "long_rows": "drop", "save_strategy": "epoch", "save_total_limit": 4, "logging_steps": 0.005,
    }  # fmt: skip
    assert "warmup_steps: 0.03  # Axolotl's default" in recipe_text(found)


@pytest.mark.parametrize(
    ("rows", "text", "expected"),
    [
        ("datasets: rows.jsonl", "", "rows.jsonl"),
        (ROWS, "", "rows.jsonl"),
        ("datasets: [{path: a/b, name: c, split: 'train[:5%]', type: chat_template, field_messages: talk}]", "",
         {"path": "a/b", "config": "c", "split": "train[:5%]", "columns": {"messages": "talk"}}),
        ("datasets: [{path: json, data_files: [a.jsonl, b.jsonl], type: completion, field: body}]", "",
         [{"path": "a.jsonl", "columns": {"text": "body"}}, {"path": "b.jsonl", "columns": {"text": "body"}}]),
        ("datasets: [{path: x.jsonl, type: {field_instruction: q, field_output: a}}]", "",
         {"path": "x.jsonl", "columns": {"instruction": "q", "output": "a"}}),
        ("datasets: [{path: x.jsonl, type: chatml.argilla}]", "rl: dpo",
         {"path": "x.jsonl", "columns": {"prompt": "instruction", "chosen": "chosen_response",
                                         "rejected": "rejected_response"}}),
        ("datasets: [{path: x.jsonl, type: chat_template.default, field_messages: talk, field_chosen: good}]",
         "rl: dpo", {"path": "x.jsonl", "columns": {"chosen": "good", "prompt": "talk"}}),
        ("pretraining_dataset: [{path: pages.jsonl, text_column: body}]", "max_steps: 5",
         {"path": "pages.jsonl", "columns": {"text": "body"}}),
    ],
)  # fmt: skip
def test_data_sets_become_sources(rows: str, text: str, expected: Any, tmp_path: Path) -> None:
    assert imported(tmp_path, text, rows=rows).values["train_dataset"] == expected


def test_settings_of_a_data_set_that_are_lost_name_their_place(tmp_path: Path) -> None:
    rows = "datasets: [{path: a.jsonl, type: chat_template, shards: 4, roles_to_train: [user], train_on_eos: all}]"
    found = reasons(imported(tmp_path, "", rows=rows))
    assert set(found) == {"datasets[0].shards", "datasets[0].roles_to_train", "datasets[0].train_on_eos"}


def test_test_data_is_evaluated(tmp_path: Path) -> None:
    found = imported(tmp_path, "test_datasets: [{path: held-out.jsonl}]")
    assert (found.values["eval_dataset"], found.values["eval_strategy"]) == ("held-out.jsonl", "epoch")


def test_every_key_of_a_file_is_carried_listed_or_needs_nothing(tmp_path: Path) -> None:
    apart = {"base_model", "datasets", "pretraining_dataset", "trl", "reward_model", "process_reward_model", "rl"}
    values: dict[str, Any] = {
        name: 2 for name in (*KEYS, *SAME) if name not in apart and name[:4] != "trl." and "*" not in name
    }
    values |= {
        "adapter": "lora", "special_tokens": {"pad_token": "<p>"}, "test_datasets": ["a.jsonl"], "output_dir": "out",
        "lora_target_modules": ["a"], "lora_modules_to_save": ["a"], "peft_init_lora_weights": "pissa",
        "tokens": ["<a>"],
    }  # fmt: skip
    found = imported(tmp_path, yaml.safe_dump(values))
    told = {*found.carried, *reasons(found), *(note.name for note in found.idle), *found.asks_nothing}
    assert set(values) <= told, set(values) - told
    assert set(found.asks_nothing) <= {
        "datasets", "test_datasets", "output_dir", "lora_target_modules", "shuffle_merged_datasets",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rows", "said"),
    [
        ("rl: dop", ROWS, "did you mean 'dpo'"),
        ("", "", "names no datasets"),
        ("", "datasets: [{type: alpaca}]", "has no path"),
    ],
)
def test_what_is_not_there_is_an_error(text: str, rows: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        imported(tmp_path, text, rows=rows)


def test_what_the_file_leaves_contradictory_has_to_be_mended(tmp_path: Path) -> None:
    found = imported(tmp_path, "rl: grpo")
    assert "reward_funcs: has to be written here" in recipe_text(found)
    assert "has to be mended: a rollout holds whole groups of num_generations=8" in recipe_text(found)


def test_what_is_written_loads_as_a_recipe(tmp_path: Path) -> None:
    found = imported(tmp_path, "output_dir: ./out\nseed: 7\nlearning_rate: 2e-5")
    (tmp_path / "recipe.yaml").write_text(recipe_text(found))
    (stage,) = load_recipe(tmp_path / "recipe.yaml").stages
    assert (stage.method, stage.values["seed"], stage.values["learning_rate"]) == ("sft", 7, 2e-5)
