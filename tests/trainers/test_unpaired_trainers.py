"""KTO and BCO trained: against a slow computation, under every cut, resumed, with adapters, and what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from padded_rows import PAIRS, padded_logprobs
from peft import LoraConfig, get_peft_model
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from posttrain import BCOConfig, BCOTrainer, KTOConfig, KTOTrainer
from posttrain.cli import main as cli
from posttrain.errors import CheckpointError, ConfigError, DataError

SETTINGS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "logging_steps": 1,
    "use_cpu": True, "bf16": False, "num_threads": 1, "max_tokens_per_pass": 200, "save_strategy": "no",
    "train_sampling_strategy": "random",
}  # fmt: skip
ROWS = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for pair in PAIRS
    for side in ("chosen", "rejected")
]
# (trainer, configuration, what is set)
METHODS = {
    "kto": (KTOTrainer, KTOConfig, {}),
    "apo": (KTOTrainer, KTOConfig, {"loss_type": "apo_zero_unpaired"}),
    "synced": (KTOTrainer, KTOConfig, {"sync_ref_model": True, "ref_model_sync_steps": 2}),
    "bco": (BCOTrainer, BCOConfig, {}),
}


def build(method, directory, *, rows=ROWS, given=None, **options):
    trainer, config, settings = METHODS[method]
    return trainer(**{
        "model": build_model("qwen2"), "train_dataset": rows, "processing_class": build_tokenizer(),
        "args": config(output_dir=str(directory), **{**SETTINGS, **settings, **options}), **(given or {}),
    })  # fmt: skip


def trained(*given, resume=None, **options):
    made = build(*given, **options)
    made.train(resume_from_checkpoint=resume)
    return made


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("method", METHODS)
def test_eight_rows_are_learnt(tmp_path, method):
    made = trained(method, tmp_path, rows=ROWS[:8], beta=0.3, num_train_epochs=8)
    assert logged(made, "loss")[-1] < 0.9 * logged(made, "loss")[0]
    if method != "synced":  # there the reference comes along
        assert logged(made, "rewards/chosen")[-1] > 0 > logged(made, "rewards/rejected")[-1]
    assert ("kl" in made.state.log_history[0]) == (method in ("kto", "synced"))
    assert ("delta" in made.state.log_history[0]) == (method == "bco")


def by_hand(model, reference, rows, method, beta):
    """The loss and the baseline of one step over these rows, from padded batches of whole sequences."""
    tokenizer = build_tokenizer()
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    answers = [tokenizer(row["completion"] + "<|endoftext|>")["input_ids"] for row in rows]

    def ratios(answers):
        sequences, starts = [p + a for p, a in zip(prompts, answers)], list(map(len, prompts))
        here, there = (padded_logprobs(m, sequences, starts) for m in (model, reference))
        return torch.stack([h.sum() - t.sum() for h, t in zip(here, there)])

    with torch.no_grad():
        z0 = ratios([answers[-1], *answers[:-1]]).mean().clamp(min=0) if method == "kto" else 0.0
        h, signs = ratios(answers), torch.tensor([1.0 if row["label"] else -1.0 for row in rows])
        margins = beta * signs * (h - z0)
        losses = -margins.sigmoid().log() if method == "bco" else 1 - margins.sigmoid()
    return float(losses.mean()), float(z0)


@pytest.mark.parametrize("method", ["kto", "apo", "bco"])
@pytest.mark.parametrize("max_tokens", [1, 90, 10_000])
def test_a_step_equals_a_slow_computation_under_every_cut(tmp_path, method, max_tokens):
    rows = ROWS[::2][:3] + ROWS[7:12:2]  # no prompt twice
    reference = build_model("qwen2", seed=2)
    policy = build_model("qwen2", seed=1)
    made = trained(
        method, tmp_path, rows=rows, given={"model": policy, "ref_model": reference}, beta=0.02, max_steps=1,
        max_tokens_per_pass=max_tokens, per_device_train_batch_size=6, gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    loss, z0 = by_hand(build_model("qwen2", seed=1), reference, rows, method, 0.02)
    assert logged(made, "loss") == pytest.approx([loss], rel=1e-5)
    if method == "kto":
        assert z0 > 1  # else nothing would be seen of it
        assert logged(made, "kl") == pytest.approx([z0], rel=1e-4)


def test_z0_does_not_see_how_a_step_is_divided_into_micro_steps(tmp_path):
    curves = [
        logged(
            trained("kto", tmp_path / str(size), beta=0.1, max_steps=5, per_device_train_batch_size=size,
                    gradient_accumulation_steps=8 // size, max_tokens_per_pass=cut),
            name,
        )
        for name in ("loss", "kl") for size, cut in ((8, 10_000), (1, 1))
    ]  # fmt: skip
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    assert curves[2] == pytest.approx(curves[3], abs=1e-3)
    assert max(curves[2]) > 0.01


@pytest.mark.parametrize("method", ["kto", "synced", "bco"])
def test_resumed_ends_bit_equal(tmp_path, method):
    options = {"beta": 0.2, "max_steps": 8, "save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps",
               "eval_steps": 4, "given": {"eval_dataset": ROWS[:5]}}  # fmt: skip
    whole = trained(method, tmp_path, **options)
    again = trained(method, tmp_path, **options, resume=str(tmp_path / "checkpoint-5"))
    for name in ("loss", "kl" if method != "bco" else "delta", "eval_loss"):
        assert logged(again, name) == logged(whole, name)
    assert len(set(logged(whole, "kl" if method != "bco" else "delta"))) > 3
    for mine, other in zip(again.model.parameters(), whole.model.parameters()):
        assert torch.equal(mine, other)


def test_other_labels_are_another_dataset_to_a_resumed_run(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trained("bco", tmp_path, **options)
    turned = [{**row, "label": not row["label"]} for row in ROWS]
    with pytest.raises(CheckpointError, match="rewards"):
        trained("bco", tmp_path, **options, rows=turned, resume=True)


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_a_fresh_adapter_begins_as_the_reference_and_learns(tmp_path, method):
    made = trained(method, tmp_path, given={"peft_config": {"r": 4}}, learning_rate=2e-2, beta=0.3, num_train_epochs=3)
    assert logged(made, "rewards/chosen")[0] == 0.0
    assert logged(made, "loss")[0] == pytest.approx(0.5 if method == "kto" else 0.693147, abs=1e-5)
    assert logged(made, "rewards/margins")[-1] > 0.1


def test_the_reference_of_a_trained_adapter_is_that_adapter(tmp_path):
    adapted = get_peft_model(build_model("qwen2"), LoraConfig(r=2, init_lora_weights=False))
    made = trained("kto", tmp_path, given={"model": adapted}, max_steps=3, learning_rate=1e-2)
    assert (logged(made, "rewards/chosen")[0], logged(made, "kl")[0]) == (0.0, 0.0)
    assert logged(made, "rewards/chosen")[-1] != 0.0


def test_a_reference_that_is_given_comes_back_as_it_was(tmp_path):
    reference = build_model("qwen2", seed=2)
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    attention, classes = reference.config._attn_implementation, [type(module) for module in reference.modules()]
    trained("kto", tmp_path, given={"ref_model": reference, "eval_dataset": ROWS[:4]}, max_steps=2)
    assert reference.config._attn_implementation == attention
    assert [type(module) for module in reference.modules()] == classes
    for name, value in reference.state_dict().items():
        assert torch.equal(value, before[name])


def test_evaluation_leaves_delta_alone_and_names_what_trl_names(tmp_path):
    made = trained("bco", tmp_path, rows=ROWS[:8], num_train_epochs=2, given={"eval_dataset": ROWS[8:14]})
    first, second = made.evaluate(), made.evaluate()
    assert first["eval_delta"] == second["eval_delta"] != 0.0
    assert first["eval_loss"] == second["eval_loss"]
    assert {"eval_rewards/chosen", "eval_rewards/rejected", "eval_rewards/margins", "eval_logps/chosen"} <= set(first)
    assert first["eval_rewards/margins"] == pytest.approx(first["eval_rewards/chosen"] - first["eval_rewards/rejected"])


def test_fields_of_every_dataset_reach_answers_too(tmp_path):
    given = {"eval_dataset": ROWS[:4], "compute_metrics": lambda seen: {"rows": len(seen.predictions)}}
    plain = trained("kto", tmp_path / "plain", max_steps=4)
    ahead = trained("kto", tmp_path / "ahead", max_steps=4, dataloader_num_workers=2, given=given)
    assert logged(ahead, "loss") == logged(plain, "loss")
    assert logged(ahead, "kl") == logged(plain, "kl")
    assert ahead.evaluate()["eval_rows"] == 4
    rows = [{**row, "length": index} for index, row in enumerate(ROWS)]
    options = {"max_steps": 1, "train_sampling_strategy": "group_by_length", "num_train_epochs": 1}
    longest = trained("kto", tmp_path / "long", rows=rows, **options)
    assert logged(longest, "num_tokens")[0] == sum(
        len(build_tokenizer()(row["prompt"] + row["completion"] + "<|endoftext|>")["input_ids"]) for row in ROWS[-4:]
    )
    noise = trained("kto", tmp_path / "noise", max_steps=1, neftune_noise_alpha=5.0)
    assert logged(noise, "kl") == [0.0]  # what is asked without a gradient has none
    assert logged(noise, "rewards/chosen") != [0.0]


def test_pairs_are_taken_apart(tmp_path):
    made = trained("kto", tmp_path, rows=PAIRS[:6], max_steps=1)
    assert "6 pairs were taken apart" in made.data_report.text()
    assert made.data_report.rows_kept == 12


@pytest.mark.parametrize("label", [True, False])
def test_one_kind_is_an_error_for_bco_and_a_warning_for_kto(tmp_path, label):
    rows = [row for row in ROWS if row["label"] is label]
    with pytest.raises(DataError, match="BCO learns"):
        build("bco", tmp_path, rows=rows)
    made = trained("kto", tmp_path, rows=rows, max_steps=2)
    assert f"Warning: all answers are {'good' if label else 'bad'}" in made.data_report.text()
    assert not logged(made, "rewards/margins")
    assert logged(made, "rewards/chosen" if label else "rewards/rejected")


@pytest.mark.parametrize(
    ("good", "bad", "weights", "said"),
    [
        (4, 4, {}, None),
        (5, 4, {}, None),  # 1.25
        (8, 2, {}, "4.00 times", ),
        (8, 2, {"desirable_weight": 0.3}, None),  # 1.2
        (2, 8, {}, "desirable_weight=4 to 5.33 or undesirable_weight=0.188 to 0.25"),
    ],
)  # fmt: skip
def test_the_papers_weights_are_advised(tmp_path, good, bad, weights, said):
    rows = [row for row in ROWS if row["label"]][:good] + [row for row in ROWS if not row["label"]][:bad]
    text = build("kto", tmp_path, rows=rows, **weights).data_report.text()
    assert f"{good:,} good answers, {bad:,} bad ones" in text
    assert ("KTO paper" in text) == (said is not None)
    assert said is None or said in text


def test_rows_in_the_order_of_their_labels_are_noticed(tmp_path):
    rows = sorted(ROWS, key=lambda row: row["label"])
    text = build("kto", tmp_path, rows=rows, train_sampling_strategy="sequential").data_report.text()
    assert "Warning: 86% of the steps see answers of one kind" in text
    assert "Warning" not in build("kto", tmp_path, rows=rows).data_report.text()


@pytest.mark.parametrize(
    ("config", "fields", "part"),
    [
        (KTOConfig, {"per_device_train_batch_size": 1}, "needs two rows in a step"),
        (KTOConfig, {"desirable_weight": 0, "undesirable_weight": 0}, "both 0"),
        (KTOConfig, {"ref_model_sync_steps": 3}, "sync_ref_model=true"),
        (KTOConfig, {"loss_type": "bco"}, "BCOTrainer"),
        (KTOConfig, {"streaming": True, "max_steps": 3}, "counted before"),
        (BCOConfig, {"shuffle_buffer_size": 3}, "counted before"),
        (KTOConfig, {"label_smoothing": 0.1}, "belongs to DPOConfig"),
        (BCOConfig, {"prompt_sample_size": 512}, "UDM"),
        (BCOConfig, {"desirable_weight": 2.0}, "belongs to KTOConfig"),
        (BCOConfig, {"sync_ref_model": True}, "KTOConfig has it"),
        (BCOConfig, {"beta": 0}, "beta"),
    ],
)
def test_what_has_no_effect_is_refused(config, fields, part):
    with pytest.raises(ConfigError, match=part):
        config(**fields)


def test_one_row_a_process_is_enough_with_two_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    KTOConfig(per_device_train_batch_size=1)


@pytest.mark.parametrize("extra", [{"ref_model": "other"}, {"peft_config": {"r": 2}}])
def test_a_synced_reference_begins_as_the_policy_and_is_whole(tmp_path, extra):
    with pytest.raises(ConfigError, match="without an adapter"):
        build("synced", tmp_path, given=extra)


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_the_commands(tmp_path, tiny_model_dir, capsys, method):
    assert cli.main([method, "--help"]) == 0
    assert "--beta " in capsys.readouterr().out
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion,label\n" + "\n".join(f"Who {i}?, I am {i},{i % 2}" for i in range(4)))
    words = [
        method, "--model", tiny_model_dir("qwen2"), "--train_dataset", str(file), "--output_dir",
        str(tmp_path / "run"), "--max_steps", "2", "--use_cpu", "--bf16", "false",
    ]  # fmt: skip
    assert cli.main(words) == 0
    assert "2 good answers, 2 bad ones" in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


def test_a_recipe_names_them(tmp_path, tiny_model_dir):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:8]))
    common = f"train_dataset: {rows}\n    max_steps: 1\n    use_cpu: true\n    bf16: false\n"
    (tmp_path / "recipe.yaml").write_text(
        f"output_dir: {tmp_path / 'out'}\nstages:\n"
        f"  - name: first\n    method: kto\n    model: {tiny_model_dir('qwen2')}\n    {common}"
        f"  - name: second\n    method: bco\n    model: ${{first.model}}\n    {common}"
    )
    assert cli.main(["run", str(tmp_path / "recipe.yaml")]) == 0
    assert list((tmp_path / "out").glob("**/model/config.json"))


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_the_commands_train_the_public_file(tmp_path, tiny_model_dir, method):
    folder = os.environ.get("POSTTRAIN_DATA")
    if not folder:
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    words = [
        method, "--model", tiny_model_dir("qwen2"), "--train_dataset",
        str(Path(folder) / "llamafactory_demo" / "kto_en_demo.json"), "--output_dir", str(tmp_path / "run"),
        "--max_steps", "2", "--use_cpu", "--bf16", "false", "--max_length", "200", "--logging_steps", "1",
    ]  # fmt: skip
    assert cli.main(words) == 0
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert report["rows_read"] == 300 == report["rows_kept"] + sum(d["count"] for d in report["dropped"].values())
