"""Files of LLaMA-Factory as recipes: what is carried over, what is written out, and what is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.config.imports import import_file
from posttrain.config.imports.llamafactory_keys import KEYS
from posttrain.config.imports.translation import Imported
from posttrain.config.imports.writing import recipe_text, report
from posttrain.config.recipe import load_recipe
from posttrain.errors import ConfigError

DATASETS: dict[str, Any] = {
    "plain": {"file_name": "plain.json"},
    "asked": {"file_name": "asked.jsonl", "columns": {"prompt": "question", "query": "more", "response": "reply"}},
    "pairs": {
        "file_name": "pairs.json", "ranking": True, "formatting": "sharegpt",
        "columns": {"messages": "talk", "chosen": "better", "rejected": "worse"},
    },
    "rated": {
        "file_name": "rated.json", "formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "good"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "odd": {"file_name": "odd.json", "formatting": "sharegpt", "tags": {"role_tag": "who", "content_tag": "said"}},
    "hub": {"hf_hub_url": "some/rows", "subset": "small", "split": "test", "num_samples": 50},
    "pages": {"file_name": "pages.jsonl", "columns": {"prompt": "body"}},
}  # fmt: skip


def imported(tmp_path: Path, text: str, *, dataset: str = "plain") -> Imported:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(DATASETS))
    path = tmp_path / "train.yaml"
    path.write_text(f"model_name_or_path: base\ndataset: {dataset}\n{text}")
    return import_file(path)


def reasons(found: Imported) -> dict[str, str]:
    return {note.name: note.text for note in found.lost}


@pytest.mark.parametrize(
    ("text", "method", "values"),
    [
        ("stage: sft\nfinetuning_type: full\ncutoff_len: 512", "sft", {"use_peft": False, "max_length": 512}),
        ("stage: sft\nlora_rank: 4", "sft", {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}),
        ("lora_target: q_proj,v_proj", "sft", {"lora_target_modules": ["q_proj", "v_proj"]}),
        ("additional_target: embed_tokens,lm_head", "sft", {"lora_modules_to_save": ["embed_tokens", "lm_head"]}),
        ("pissa_init: true\npissa_iter: 8", "sft", {"lora_init": "pissa_niter_8"}),
        ("quantization_bit: 4", "sft", {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        ("train_on_prompt: true", "sft", {"assistant_only_loss": False}),
        ("neat_packing: true", "sft", {"packing": True}),
        ("stage: pt", "sft", {"packing": True, "packing_strategy": "wrapped"}),
        ("template: llama3\nadd_special_tokens: <a>,<b>", "sft",
         {"chat_template_path": "llama3", "add_special_tokens": ["<a>", "<b>"]}),
        ("use_dft_loss: true", "sft", {"loss_type": "dft"}),
        ("disable_shuffling: true", "sft", {"train_sampling_strategy": "sequential"}),
        ("disable_gradient_checkpointing: true", "sft", {"gradient_checkpointing": False}),
        ("model_revision: v2", "sft", {"model_init_kwargs": {"revision": "v2"}}),
        ("warmup_ratio: 0.1", "sft", {"warmup_steps": 0.1}),
        ("stage: rm", "reward", {"learning_rate": 5e-5, "max_length": 2048}),
        ("stage: dpo\npref_beta: 0.2\npref_loss: ipo", "dpo", {"beta": 0.2, "loss_type": ["ipo"]}),
        ("stage: dpo\npref_ftx: 0.5", "dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ("stage: dpo\npref_ftx: 2\npref_loss: hinge", "dpo", {"loss_type": ["hinge", "sft"], "loss_weights": [1, 2]}),
        ("stage: dpo\npref_loss: orpo\npref_beta: 0.1", "orpo", {"beta": 0.1}),
        ("stage: dpo\npref_loss: simpo\nsimpo_gamma: 1.0", "cpo", {"loss_type": "simpo", "simpo_gamma": 1.0,
                                                                   "cpo_alpha": 0.0}),
        ("stage: kto\nkto_rejected_weight: 0.5", "kto", {"undesirable_weight": 0.5}),
        ("stage: ppo\nreward_model: saves/reward\nppo_epochs: 2", "ppo",
         {"reward_funcs": ["saves/reward"], "num_ppo_epochs": 2, "top_k": 50, "max_completion_length": 1024}),
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
        ("finetuning_type: freeze", "finetuning_type", "LoRA adapter"),
        ("template: qwen", "template", "chat_template_path"),
        ("val_size: 0.1", "val_size", "eval_dataset"),
        ("eval_strategy: steps\neval_steps: 10", "eval_steps", "nothing to evaluate on"),
        ("deepspeed: ds.json", "deepspeed", "torchrun"),
        ("stage: dpo\npacking: true", "packing", "it belongs to SFT"),
        ("use_galore: true", "use_galore", "not offered"),
        ("quantization_bit: 2", "quantization_bit", "4 or 8"),
        ("stage: dpo\npref_loss: kto_pair", "pref_loss", "apo_zero"),
        ("stage: dpo\npref_loss: orpo\npref_ftx: 1", "pref_ftx", "likelihood"),
        ("stage: dpo\ndpo_label_smoothing: 0.1", "dpo_label_smoothing", "robust"),
        ("optim: lion_8bit_typo", "optim", "is not allowed"),
        ("brand_new_key: 3", "brand_new_key", "no key of LLaMA-Factory that is known here"),
    ],
)
def test_what_does_not_carry_over_is_listed_with_its_reason(text: str, name: str, said: str, tmp_path: Path) -> None:
    found = imported(tmp_path, text)
    assert said in reasons(found)[name]
    assert f"{name}: " in recipe_text(found).split("# Not carried over:")[1]
    assert f"{name}: " in report(found).split("Not carried over:")[1]


def test_keys_are_known_by_their_beginning(tmp_path: Path) -> None:
    found = imported(tmp_path, "export_anything: 1\nswanlab_project: p\nfp8_backend: te")
    assert {note.name for note in found.idle} == {"export_anything", "swanlab_project"}
    assert "float8" in reasons(found)["fp8_backend"]


@pytest.mark.parametrize("text", ["template: default", "packing: false", "quantization_method: bnb", "val_size: 0.0"])
def test_values_that_ask_for_nothing_are_no_loss(text: str, tmp_path: Path) -> None:
    assert not imported(tmp_path, text).lost


def test_every_key_of_a_file_is_carried_listed_or_needs_nothing(tmp_path: Path) -> None:
    values = {
        name: 3 for name in KEYS if "*" not in name and name not in ("stage", "dataset", "dataset_dir", "mix_strategy")
    }
    values |= {"interleave_probs": "1.0", "reward_model": "r", "eval_dataset": "plain", "pref_loss": "sigmoid",
               "additional_target": "a", "lora_target": "all", "finetuning_type": "lora", "quantization_bit": 4,
               "output_dir": "out", "ref_model": "r", "add_tokens": "a", "add_special_tokens": "b",
               "template": "qwen"}  # fmt: skip
    found = imported(tmp_path, yaml.safe_dump({name: values[name] for name in values if name != "model_name_or_path"}))
    told = {*found.carried, *reasons(found), *(note.name for note in found.idle), *found.asks_nothing}
    assert set(values) <= told, set(values) - told
    # read together with another key, or of the stage ppo
    assert set(found.asks_nothing) <= {
        "dataset", "eval_dataset", "output_dir", "do_train", "interleave_probs", "pissa_iter", "temperature", "top_p",
        "top_k", "max_new_tokens", "repetition_penalty",
    }  # fmt: skip


def test_defaults_that_differ_are_written_out_and_marked(tmp_path: Path) -> None:
    found = imported(tmp_path, "per_device_train_batch_size: 2")
    assert found.values["learning_rate"] == 5e-5
    assert {"learning_rate", "max_length", "use_peft", "lora_r", "lora_alpha", "lora_dropout"} <= set(
        found.written_out()
    )
    assert "per_device_train_batch_size" not in found.written_out()
    assert "num_train_epochs" not in found.values  # 3 is the default here, too
    assert "learning_rate: 5.0e-05  # LLaMA-Factory's default" in recipe_text(found)


@pytest.mark.parametrize(
    ("dataset", "stage", "expected"),
    [
        ("plain", "sft", "plain.json"),
        ("asked", "sft", {"path": "asked.jsonl", "columns": {"instruction": "question", "input": "more",
                                                             "output": "reply"}}),
        ("pairs", "dpo", {"path": "pairs.json", "columns": {"conversations": "talk", "chosen": "better",
                                                            "rejected": "worse"}}),
        ("rated", "kto", {"path": "rated.json", "columns": {"label": "good"}}),
        ("hub", "sft", {"path": "some/rows", "config": "small", "split": "test", "rows": 50}),
        ("pages", "pt", {"path": "pages.jsonl", "columns": {"text": "body"}}),
    ],
)  # fmt: skip
def test_data_sets_are_found_by_their_list(dataset: str, stage: str, expected: Any, tmp_path: Path) -> None:
    given = imported(tmp_path, f"stage: {stage}", dataset=dataset).values["train_dataset"]
    if isinstance(expected, str):
        assert given == str(tmp_path / "data" / expected)
    else:
        here = {"path": given["path"].removeprefix(f"{tmp_path}/data/")}
        assert given | here == expected


def test_mixtures_keep_their_shares(tmp_path: Path) -> None:
    found = imported(tmp_path, "mix_strategy: interleave_over\ninterleave_probs: 0.7,0.3", dataset="plain,hub")
    assert [source["weight"] for source in found.values["train_dataset"]] == [0.7, 0.3]
    assert found.values["stopping_strategy"] == "all_exhausted"
    assert len(imported(tmp_path, "", dataset="plain,hub").values["train_dataset"]) == 2


def test_columns_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    assert "role and content" in reasons(imported(tmp_path, "", dataset="odd"))["odd.tags"]


@pytest.mark.parametrize(
    ("text", "dataset", "said"),
    [
        ("stage: dppo", "plain", "did you mean 'ppo'"),
        ("", "plane", "did you mean 'plain'"),
        ("dataset_dir: elsewhere", "plain", "dataset_info.json"),
    ],
)
def test_what_is_not_there_is_an_error(text: str, dataset: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        imported(tmp_path, text, dataset=dataset)


def test_what_differs_although_it_is_carried_over_is_told(tmp_path: Path) -> None:
    found = imported(tmp_path, "stage: rm\ncutoff_len: 512")
    assert "max_length: 512 - a pair with a longer row is left out" in report(found)
    assert "left out, not cut" in recipe_text(found)
    assert imported(tmp_path, "stage: kto").values["train_sampling_strategy"] == "random"


def test_what_is_written_loads_as_a_recipe(tmp_path: Path) -> None:
    found = imported(tmp_path, "stage: dpo\noutput_dir: saves/dpo\nseed: 7\npref_loss: hinge")
    (tmp_path / "recipe.yaml").write_text(recipe_text(found))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    (stage,) = recipe.stages
    assert (recipe.output_dir, stage.method, stage.values["seed"]) == ("saves/dpo", "dpo", 7)
