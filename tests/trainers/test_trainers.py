"""What the trainers do as a whole: they learn, hold the right reference, survive bad steps, and say what is wrong."""

import json

import jobs
import peft
import pytest
import torch
import yaml
from padded_rows import CONVERSATIONS, PAIRS
from safetensors.torch import load_file
from tiny import build_model, build_tokenizer

from posttrain import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from posttrain.errors import ConfigError, DataError, ModelError, PosttrainError, TrainingError


def logs(trainer, key="loss"):
    return [log[key] for log in trainer.state.log_history if key in log]


def settings(tmp_path, **more):
    return {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "num_train_epochs": 1, "bf16": False,
    } | more  # fmt: skip


def dpo(tmp_path, model, rows=PAIRS, peft_config=None, ref_model=None, **more):
    return DPOTrainer(
        model=model, ref_model=ref_model, args=DPOConfig(**settings(tmp_path, **more)), train_dataset=rows,
        processing_class=build_tokenizer(), peft_config=peft_config,
    )  # fmt: skip


def sft(tmp_path, model, rows=CONVERSATIONS, **more):
    return SFTTrainer(
        model=model,
        args=SFTConfig(**settings(tmp_path, **more)),
        train_dataset=rows,
        processing_class=build_tokenizer(),
    )


def test_sft_learns_eight_rows(tmp_path):
    trainer = sft(tmp_path, build_model("qwen2"), CONVERSATIONS[:8], num_train_epochs=40, learning_rate=1e-2)
    output = trainer.train()
    assert output.global_step == trainer.state.global_step == 80
    assert logs(trainer)[-1] < 0.2 < 5 < logs(trainer)[0]
    assert logs(trainer, "mean_token_accuracy")[-1] > 0.9
    assert output.training_loss == pytest.approx(sum(logs(trainer)) / 80)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge", "robust", ["sigmoid", "sft"]])
def test_dpo_learns_eight_pairs(tmp_path, loss_type):
    smoothing = {"label_smoothing": 0.1} if loss_type == "robust" else {}
    trainer = dpo(
        tmp_path, build_model("qwen2"), PAIRS[:8], num_train_epochs=10, learning_rate=1e-3, loss_type=loss_type,
        beta=0.1, **smoothing,
    )  # fmt: skip
    trainer.train()
    assert logs(trainer, "rewards/accuracies")[-1] == 1.0
    assert logs(trainer, "rewards/margins")[-1] > 0.5
    assert logs(trainer)[-1] < logs(trainer)[0]


ADAPTER = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.5}


def gpt2_with_dropout():
    return build_model("gpt2", resid_pdrop=0.5, attn_pdrop=0.5)


def falcon_with_dropout():
    """Its layers ask the configuration at every call, and drop with a function, not a module."""
    return build_model("falcon", hidden_dropout=0.5, attention_dropout=0.5)


@pytest.mark.parametrize(
    ("build", "peft_config"), [(gpt2_with_dropout, None), (gpt2_with_dropout, ADAPTER), (falcon_with_dropout, None)]
)
def test_at_step_0_the_policy_is_its_own_reference(tmp_path, build, peft_config):
    """With dropout in model and adapter, which preference training switches off."""
    model = build()
    trainer = dpo(tmp_path, model, peft_config=peft_config, learning_rate=0.0)
    trainer.train()
    assert logs(trainer) == pytest.approx([0.6931471805599453] * 4, abs=1e-6)
    assert logs(trainer, "rewards/margins") == pytest.approx([0.0] * 4, abs=1e-5)


def test_the_reference_of_a_trained_adapter_is_that_adapter_not_the_base(tmp_path):
    model = peft.get_peft_model(build_model("qwen2"), peft.LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    trainer = dpo(tmp_path, model, learning_rate=0.0)
    trainer.train()
    assert logs(trainer, "rewards/margins") == pytest.approx([0.0] * 4, abs=1e-5)
    with torch.no_grad():  # so that the base is visibly another model
        row = torch.arange(5, 15)[None]
        with model.disable_adapter():
            base = model(row).logits
        assert (model(row).logits - base).abs().max() > 0.1


def test_a_reference_given_is_the_one_used_and_is_not_changed(tmp_path):
    reference = build_model("qwen2", seed=1)
    before = {name: p.clone() for name, p in reference.named_parameters()}
    trainer = dpo(tmp_path, build_model("qwen2"), ref_model=reference, learning_rate=1e-3)
    trainer.train()
    assert abs(logs(trainer, "rewards/margins")[0]) > 1e-3
    assert all(torch.equal(p, before[name]) for name, p in reference.named_parameters())
    assert reference.config._attn_implementation == "sdpa"


def test_reference_logprobs_are_computed_once_and_kept(tmp_path, monkeypatch):
    import posttrain.models.reference as room

    calls = []
    plain = room.tree_logprobs
    monkeypatch.setattr(room, "tree_logprobs", lambda *a, **k: calls.append(1) or plain(*a, **k))
    for seed, expected in ((0, 1), (0, 1), (1, 2)):
        dpo(tmp_path, build_model("qwen2", seed=seed))
        assert len(calls) == expected


def test_only_the_adapter_is_trained_and_the_model_is_saved_merged(tmp_path):
    from transformers import AutoModelForCausalLM

    model = build_model("qwen2")
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer = jobs.trainer("sft-lora", tmp_path / "run", num_train_epochs=1, dropout=0.0)
    trainer.train()
    base = trainer.model.get_base_model()
    kept = {n.replace(".base_layer", ""): p for n, p in base.named_parameters() if "lora_" not in n}
    assert all(torch.equal(before[name], p) for name, p in kept.items())
    trainer.save_model(tmp_path / "model")
    row = torch.arange(5, 15)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(row).logits
        torch.testing.assert_close(merged, trainer.model(row).logits, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").is_file()


def test_evaluation_runs_on_its_interval_and_equals_the_mean_over_all_tokens(tmp_path):
    args = SFTConfig(**settings(tmp_path, eval_strategy="steps", eval_steps=2, eval_on_start=True, learning_rate=0.0))
    trainer = SFTTrainer(
        model=build_model("qwen2"), args=args, train_dataset=CONVERSATIONS, eval_dataset=CONVERSATIONS,
        processing_class=build_tokenizer(),
    )  # fmt: skip
    trainer.train()
    steps = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
    assert steps == [0, 2, 4]
    whole = sft(tmp_path / "whole", build_model("qwen2"), per_device_train_batch_size=13, learning_rate=0.0)
    whole.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logs(whole)[0], rel=1e-6)


def test_a_run_leaves_its_configuration_with_what_was_chosen(tmp_path):
    sft(tmp_path, build_model("qwen2")).train()
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert kept["bf16"] is False
    assert kept["gradient_checkpointing"] is False
    assert kept["max_tokens_per_pass"] == 1024
    assert kept["num_threads"] == torch.get_num_threads()
    assert SFTConfig(**kept).to_dict() == kept
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4]
    assert {"loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy", "num_tokens", "epoch"} <= set(
        lines[0]
    )


def test_steps_that_are_not_finite_are_skipped_kept_and_end_the_run(tmp_path):
    model = build_model("qwen2")
    broken = {"left": 2}

    def break_twice(module, args, output):
        if broken["left"] > 0 and module.training:
            broken["left"] -= 1
            return output * float("nan")
        return output

    model.model.norm.register_forward_hook(break_twice)
    trainer = sft(tmp_path, model, max_nonfinite_steps=3)
    trainer.train()
    assert len(logs(trainer)) == 2
    kept = load_file(tmp_path / "nonfinite" / "step-1-rank-0.safetensors")
    assert len(kept["forest.tokens"]) > 10
    assert all(p.isfinite().all() for p in model.parameters())
    broken["left"] = 100
    with pytest.raises(TrainingError, match="3 steps in a row"):
        sft(tmp_path / "second", model, max_nonfinite_steps=3).train()


def test_the_model_generates_and_is_as_it_came_after_training(tmp_path):
    model = build_model("mistral")
    trainer = sft(tmp_path, model)
    trainer.train()
    assert trainer.model is model
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert model.generate(torch.arange(5, 15)[None], max_new_tokens=3, do_sample=False).shape[1] > 10


class Unloadable:
    """Stands for a model that must not be touched before the data is known to be good."""

    def __getattr__(self, name):
        raise AssertionError("the model was looked at")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"prompt": "Hi"}], "GRPO"),
        ([{"messges": []}], "messages"),
        ([], "empty|no rows"),
        ([{"prompt": "a", "completion": ""}], "nothing to train on|empty"),
    ],
)
def test_bad_data_is_refused_before_the_model_is_loaded(tmp_path, rows, problem):
    with pytest.raises(DataError, match=problem):
        SFTTrainer(model=Unloadable(), args=SFTConfig(**settings(tmp_path)), train_dataset=rows,
                   processing_class=build_tokenizer())  # fmt: skip


def test_mistakes_in_the_constructor_are_named(tmp_path):
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    with pytest.raises(ConfigError, match="SFTConfig"):
        SFTTrainer(model=model, args=DPOConfig(), train_dataset=CONVERSATIONS, processing_class=tokenizer)
    with pytest.raises(ConfigError, match="very model that is trained"):
        DPOTrainer(model=model, ref_model=model, train_dataset=PAIRS, processing_class=tokenizer)
    with pytest.raises(ModelError, match="processing_class"):
        SFTTrainer(model=model, args=SFTConfig(**settings(tmp_path)), train_dataset=CONVERSATIONS)
    with pytest.raises(ConfigError, match="train_dataset"):
        SFTTrainer(model=model, args=SFTConfig(**settings(tmp_path)), processing_class=tokenizer).train()
    with pytest.raises(ConfigError, match="eval_dataset"):
        sft(tmp_path, model).evaluate()
    with pytest.raises(ConfigError, match="dataloader_drop_last"):
        sft(tmp_path, model, dataloader_drop_last=True, per_device_train_batch_size=100).train()


def test_callbacks_of_transformers_are_told_and_can_stop_the_run(tmp_path):
    from transformers import TrainerCallback

    class StopAtTwo(TrainerCallback):
        logged = 0

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.logged += "loss" in logs

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    callback = StopAtTwo()
    trainer = SFTTrainer(
        model=build_model("qwen2"), args=SFTConfig(**settings(tmp_path)), train_dataset=CONVERSATIONS,
        processing_class=build_tokenizer(), callbacks=[callback],
    )  # fmt: skip
    assert trainer.train().global_step == 2
    assert callback.logged == 2


def test_rows_that_the_model_cannot_place_are_refused(tmp_path):
    long = [{"prompt": "a", "completion": " word" * 100}]
    with pytest.raises(ConfigError, match="set max_length=64"):
        sft(tmp_path, build_model("gpt2", n_positions=64), long, max_length=None)
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ConfigError, match="depend on its neighbours"):
        sft(tmp_path, build_model("llama", max_position_embeddings=64, rope_parameters=scaled), long, max_length=None)


def test_a_rotary_model_is_trained_beyond_its_length_with_a_word(tmp_path, capsys):
    sft(tmp_path, build_model("llama", max_position_embeddings=16))
    assert "longer than the 16 that the model was made for" in capsys.readouterr().out


def test_what_would_stop_the_run_later_stops_it_before_the_model_is_loaded(tmp_path):
    for more, problem in (
        ({"eval_strategy": "steps"}, "nothing to evaluate"),
        ({"resume_from_checkpoint": True}, "holds no checkpoint"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type"),
        ({"lr_scheduler_kwargs": {"cycles": 3}}, "lr_scheduler_kwargs"),
    ):
        with pytest.raises(PosttrainError, match=problem):
            sft(tmp_path, Unloadable(), **more)


def test_dtype_may_be_that_of_the_files_and_is_said_once(tmp_path):
    build_model("qwen2").to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    path = str(tmp_path / "saved")
    assert sft(tmp_path / "a", path, dtype="auto").model.dtype == torch.bfloat16
    assert sft(tmp_path / "b", path, model_init_kwargs={"dtype": "float32"}).model.dtype == torch.float32
    with pytest.raises(ConfigError, match="twice"):
        sft(tmp_path / "c", path, dtype="auto", model_init_kwargs={"torch_dtype": "float32"})


def test_an_adapter_of_another_name_is_resumed(tmp_path):
    def build():
        torch.manual_seed(0)
        return peft.get_peft_model(build_model("qwen2"), peft.LoraConfig(r=2, target_modules="all-linear"), "mine")

    whole = sft(tmp_path, build(), save_strategy="steps", save_steps=2, learning_rate=1e-2)
    whole.train()
    resumed = sft(tmp_path, build(), save_strategy="steps", save_steps=2, learning_rate=1e-2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert jobs.weights_hash(resumed.model) == jobs.weights_hash(whole.model)
