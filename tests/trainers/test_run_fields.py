"""What the plain fields of a run do: steps, schedules, logs, checkpoints, the order of rows, and the loss of pairs."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml
from padded_rows import CONVERSATIONS, PAIRS
from tiny import build_model, build_tokenizer

from posttrain import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from posttrain.engine.checkpoint import STATE_FILE, checkpoints
from posttrain.errors import CheckpointError, ModelError

TEXTS = [{"prompt": f"{n}", "completion": f" and {n} and {n}", "other": f"other {n}"} for n in range(8)]


def sft(tmp_path, *, model=None, rows=TEXTS, **fields):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 2, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "max_steps": 4, "bf16": False, "learning_rate": 1e-2,
    } | fields  # fmt: skip
    return SFTTrainer(
        model=model or build_model("llama"), args=SFTConfig(**settings), train_dataset=rows, eval_dataset=rows[:2],
        processing_class=build_tokenizer(),
    )  # fmt: skip


def trained(tmp_path, **fields):
    trainer = sft(tmp_path, **fields)
    trainer.seen = []
    trainer._learner.register_forward_pre_hook(lambda module, args: trainer.seen.append(args[0]))
    trainer.train()
    return trainer


def logged(trainer, key="loss"):
    return [log[key] for log in trainer.state.log_history if key in log and "train_runtime" not in log]


def steps(trainer, key="loss"):
    return [log["step"] for log in trainer.state.log_history if key in log]


def order(trainer):
    """The first token of every row, pass by pass."""
    return [[int(forest.tokens[o]) for o, p in zip(forest.offsets, forest.parents) if p < 0] for forest in trainer.seen]


def test_rows_of_a_step_are_batch_size_times_accumulation(tmp_path):
    assert [len(rows) for rows in order(trained(tmp_path / "a", max_steps=1))] == [2]
    three = trained(tmp_path / "b", max_steps=1, per_device_train_batch_size=3)
    assert [len(rows) for rows in order(three)] == [3]
    six = trained(tmp_path / "c", max_steps=1, gradient_accumulation_steps=3)
    assert sum(len(rows) for rows in order(six)) == 6
    once = trained(tmp_path / "d", max_steps=1, per_device_train_batch_size=6)
    assert logged(six) == pytest.approx(logged(once), rel=1e-6)


def test_a_run_has_so_many_epochs_or_steps_and_leaves_out_a_rest(tmp_path):
    assert trained(tmp_path / "a", max_steps=-1, num_train_epochs=1.5).state.global_step == 6
    assert trained(tmp_path / "b", max_steps=5, num_train_epochs=1).state.global_step == 5
    epoch = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 3}
    assert trained(tmp_path / "c", **epoch).state.global_step == 3
    assert trained(tmp_path / "d", **epoch, dataloader_drop_last=True).state.global_step == 2


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({}, [4, 3, 2, 1]),
        ({"lr_scheduler_type": "constant"}, [4, 4, 4, 4]),
        ({"warmup_steps": 2}, [0, 2, 4, 2]),
        ({"warmup_steps": 0.5}, [0, 2, 4, 2]),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.02}}, [4, 3.707, 3, 2.293]),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_its_schedule(tmp_path, fields, rates):
    trainer = trained(tmp_path, learning_rate=0.04, optim="sgd", **fields)
    assert [100 * rate for rate in logged(trainer, "learning_rate")] == pytest.approx(rates, abs=2e-3)


def test_gradients_are_clipped_to_the_norm_named(tmp_path):
    moved = {}
    for norm in (0.25, 0.0):
        model = build_model("llama")
        before = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
        trainer = trained(
            tmp_path / str(norm), model=model, optim="sgd", learning_rate=1.0, max_steps=1, max_grad_norm=norm,
            lr_scheduler_type="constant",
        )  # fmt: skip
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moved[norm] = float((after - before).norm())
    assert moved[0.25] == pytest.approx(0.25, rel=1e-3)
    assert moved[0.0] == pytest.approx(logged(trainer, "grad_norm")[0], rel=1e-3)


def test_logs_are_shown_when_they_are_asked_for(tmp_path):
    assert steps(trained(tmp_path / "a", logging_steps=2)) == [2, 4]
    assert steps(trained(tmp_path / "b", logging_steps=3, logging_first_step=True)) == [1, 3, 4]
    assert steps(trained(tmp_path / "c", logging_strategy="epoch", max_steps=8)) == [4, 8]
    assert steps(trained(tmp_path / "d", logging_strategy="no")) == []


def test_evaluations_are_made_when_they_are_asked_for(tmp_path):
    epochs = trained(tmp_path / "a", eval_strategy="epoch", max_steps=8)
    assert steps(epochs, "eval_loss") == [4, 8]
    assert steps(trained(tmp_path / "b", eval_strategy="steps", eval_steps=3), "eval_loss") == [3, 4]
    assert steps(trained(tmp_path / "c", eval_on_start=True), "eval_loss") == [0]
    assert steps(trained(tmp_path / "d"), "eval_loss") == []


def test_checkpoints_are_written_where_and_when_they_are_asked_for(tmp_path):
    def written(name, **fields):
        trained(tmp_path / name, **fields)
        return [path.name for path in checkpoints(tmp_path / name)]

    assert written("a", save_strategy="steps", save_steps=3) == ["checkpoint-3", "checkpoint-4"]
    assert written("b", save_strategy="epoch", max_steps=8) == ["checkpoint-4", "checkpoint-8"]
    assert written("c") == []
    assert written("d", save_strategy="steps", save_steps=1, save_total_limit=2) == ["checkpoint-3", "checkpoint-4"]
    assert (tmp_path / "d" / "checkpoint-4" / STATE_FILE).is_file()
    assert written("e", save_strategy="steps", save_only_model=True) == ["checkpoint-4"]
    assert not (tmp_path / "e" / "checkpoint-4" / STATE_FILE).exists()
    assert (tmp_path / "e" / "checkpoint-4" / "model.safetensors").is_file()


def test_a_run_is_resumed_from_the_checkpoint_that_its_field_names(tmp_path):
    whole = trained(tmp_path, save_strategy="steps", save_steps=2)
    again = trained(
        tmp_path, save_strategy="steps", save_steps=2, resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert logged(again) == logged(whole)
    assert len(again.seen) == 2
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        trained(tmp_path / "none", resume_from_checkpoint=True)


def test_the_order_of_rows_follows_the_seed_of_the_data_and_the_rest_the_seed(tmp_path):
    def run(name, **fields):
        trainer = trained(tmp_path / name, model=build_model("gpt2", resid_pdrop=0.3), **fields)
        return order(trainer), logged(trainer)

    plain, data, other = run("a"), run("b", data_seed=7), run("c", seed=7)
    both = run("d", seed=7, data_seed=42)
    assert data[0] == other[0] != plain[0]  # the seed of the data is the seed, unless it is set
    assert both[0] == plain[0]
    assert both[1] != plain[1]  # dropout is drawn by the seed
    assert run("e")[1] == plain[1]


def test_rows_come_as_given_shuffled_or_grouped_by_length(tmp_path):
    rows = [{"prompt": f"{n}", "completion": " long" * (1 + n % 4)} for n in range(8)]
    given = order(trained(tmp_path / "a", rows=rows, train_sampling_strategy="sequential"))
    shuffled = order(trained(tmp_path / "b", rows=rows))
    assert sorted(row for step in given for row in step) == sorted(row for step in shuffled for row in step)
    assert given != shuffled
    grouped = trained(tmp_path / "c", rows=rows, train_sampling_strategy="group_by_length")
    lengths = [sum(forest.lengths) for forest in grouped.seen]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_the_device_is_the_cpu_where_that_is_asked_for(tmp_path, monkeypatch):
    import posttrain.engine.runtime as room

    asked = []
    plain = room.Accelerator
    monkeypatch.setattr(room, "Accelerator", lambda *a, **k: asked.append(k["cpu"]) or plain(*a, **k))
    assert sft(tmp_path).model.device.type == "cpu"
    sft(tmp_path, use_cpu=False)
    assert asked == [True, False]


def test_a_run_computes_in_bfloat16_or_not(tmp_path):
    plain, half = (logged(trained(tmp_path / str(bf16), bf16=bf16)) for bf16 in (False, True))
    assert half != plain
    assert half == pytest.approx(plain, rel=2e-2)


def test_activations_are_computed_again_with_the_arguments_given(tmp_path):
    calls, losses = {}, {}
    for name, fields in (
        ("kept", {}),
        ("again", {"gradient_checkpointing": True}),
        ("synonym", {"activation_checkpointing": True}),
        ("reentrant", {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}),
        ("both", {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}),
    ):
        counted = []
        model = build_model("llama")
        model.model.layers[0].self_attn.q_proj.register_forward_hook(
            lambda module, args, output, counted=counted: counted.append(output.grad_fn is not None)
        )
        trainer = sft(tmp_path / name, model=model, max_steps=1, **fields)
        counted.clear()
        trainer.train()
        calls[name], losses[name] = counted, logged(trainer)[0]
    assert calls["kept"] == [True]
    assert calls["again"] == calls["synonym"] == [True, True]
    assert calls["reentrant"] == calls["both"] == [False, True]  # the first pass of a reentrant one has no gradient
    assert len({round(loss, 6) for loss in losses.values()}) == 1


def test_a_bar_is_shown_unless_it_is_not_wanted(tmp_path, capsys):
    trained(tmp_path / "a", disable_tqdm=False)
    assert "4/4" in capsys.readouterr().err
    trained(tmp_path / "b", disable_tqdm=True)
    assert "4/4" not in capsys.readouterr().err


def test_the_run_s_directory_and_name_are_those_given(tmp_path):
    trained(tmp_path / "here", run_name="mine")
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["run_name"] == "mine"
    assert (tmp_path / "here" / "metrics.jsonl").is_file()


def test_what_rows_train_follows_their_fields(tmp_path):
    def tokens(rows, **fields):
        trainer = sft(tmp_path, rows=rows, **fields)
        tree = trainer._plan.source()._trees[0]
        decode = trainer.processing_class.decode
        return decode(tree.tokens), [decode(tree.tokens[a:b]) for a, b in tree.trained]

    whole = ("0 and 0 and 0<|endoftext|>", [" and 0 and 0<|endoftext|>"])
    assert tokens(TEXTS) == whole
    prompts = [{"prompt": "What is 0?", "completion": " 0"}]
    assert tokens(prompts)[1] == [" 0<|endoftext|>"]
    assert tokens(prompts, completion_only_loss=False)[1][0].endswith("is 0? 0<|endoftext|>")
    texts = [{"text": "one", "other": "two"}]
    assert tokens(texts)[0].startswith("one")
    assert tokens(texts, dataset_text_field="other")[0].startswith("two")
    cut = {"max_length": 4}
    assert tokens(TEXTS, **cut)[0] == "0 and 0"[: len(tokens(TEXTS, **cut)[0])]
    assert tokens(TEXTS, **cut, truncation_mode="keep_end")[0].endswith("<|endoftext|>")
    turns = tokens(CONVERSATIONS)[1]
    assert len("".join(tokens(CONVERSATIONS, assistant_only_loss=False)[1])) > len("".join(turns))


def dpo(tmp_path, **fields):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "max_steps": 3, "bf16": False, "learning_rate": 1e-2, "max_grad_norm": 0.0,
    } | fields  # fmt: skip
    dropout = 0.3 if "disable_dropout" in fields else 0.0
    trainer = DPOTrainer(
        model=build_model("gpt2", resid_pdrop=dropout), args=DPOConfig(**settings), train_dataset=PAIRS,
        processing_class=build_tokenizer(),
    )  # fmt: skip
    trainer.train()
    return logged(trainer)


TWO = {"loss_type": ["sigmoid", "sft"]}
SYNC = {"sync_ref_model": True, "ref_model_sync_steps": 1}
ALPHA = {"f_divergence_type": "alpha_divergence", "learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ({}, {"beta": 0.5}),
        ({}, {"loss_type": "ipo"}),
        (TWO, {"loss_weights": [1.0, 0.25]}),
        ({}, {"ld_alpha": 0.5}),
        ({}, {"f_divergence_type": "forward_kl"}),
        (ALPHA, {"f_alpha_divergence_coef": 0.25}),
        ({"loss_type": "robust"}, {"label_smoothing": 0.2}),
        ({}, {"use_weighting": True}),
        ({"loss_type": "discopop"}, {"discopop_tau": 0.5}),
        ({}, SYNC),
        (SYNC, {"ref_model_mixup_alpha": 0.1}),
        (SYNC, {"ref_model_sync_steps": 2}),
        ({"disable_dropout": True}, {"disable_dropout": False}),
        ({}, {"max_length": 12}),
        ({"max_length": 12}, {"truncation_mode": "keep_end"}),
    ],
    ids=lambda fields: "-".join(fields),
)
def test_each_field_of_preference_training_reaches_the_loss(tmp_path, before, changed):
    """Another value is another loss after the reference was left; the mathematics is worked by hand elsewhere."""
    plain = dpo(tmp_path / "plain", **before)
    other = dpo(tmp_path / "other", **before | changed)
    assert all(math.isfinite(value) for value in plain + other)
    assert abs(plain[-1] - other[-1]) > 1e-4


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_that_comes_with_a_model_is_run_where_it_is_trusted(tmp_path, monkeypatch):
    import transformers.dynamic_module_utils as room

    monkeypatch.setattr(room, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    directory = tmp_path / "model"
    build_model("llama").save_pretrained(directory)
    (directory / "own.py").write_text(OWN_CODE)
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        sft(tmp_path / "a", model=str(directory))
    trusted = trained(tmp_path / "b", model=str(directory), trust_remote_code=True)
    assert type(trusted.model).__name__ == "OwnModel"
    assert logged(trusted) == logged(trained(tmp_path / "c"))
