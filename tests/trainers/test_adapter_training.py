"""Every kind of adapter in the trainers: its reference is the start, its run resumes bit for bit, its rollouts fit."""

import jobs
import pytest
import torch
import yaml
from padded_rows import CONVERSATIONS, PAIRS, padded_logprobs
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from posttrain.errors import ConfigError, ModelError
from posttrain.models.loading import load_model
from posttrain.models.score_loading import load_score_model

QUIET = {
    "use_cpu": True, "bf16": False, "num_threads": 1, "logging_steps": 1, "save_strategy": "no",
    "per_device_train_batch_size": 4, "num_train_epochs": 1, "max_tokens_per_pass": 512,
}  # fmt: skip
SMALL = {"r": 4, "lora_alpha": 8}
STARTS = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "dora": {"use_dora": True},
    "random": {"init_lora_weights": False},
    "rows": {"trainable_token_indices": [3, 7]},
}


def sft(tmp_path, model=None, peft_config=None, rows=CONVERSATIONS[:8], tokenizer=None, **more):
    return SFTTrainer(
        model=model or build_model("qwen2"), args=SFTConfig(**{**QUIET, "output_dir": str(tmp_path), **more}),
        train_dataset=rows, processing_class=tokenizer or build_tokenizer(), peft_config=peft_config,
    )  # fmt: skip


def dpo(tmp_path, peft_config, **more):
    return DPOTrainer(
        model=build_model("qwen2"), args=DPOConfig(**{**QUIET, "output_dir": str(tmp_path), **more}),
        train_dataset=PAIRS[:4], processing_class=build_tokenizer(), peft_config=peft_config,
    )  # fmt: skip


def logs(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def tensors(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["pissa", "olora", "random", "rows"])
def test_dpo_begins_at_the_start_whatever_the_base_is(tmp_path, kind):
    """Pitfalls 14 and 16: loss ln 2 and margins 0; with PiSSA the adapter switched off would be another model."""
    trainer = dpo(tmp_path, SMALL | STARTS[kind], num_train_epochs=2, learning_rate=1e-2)
    trainer.train()
    assert logs(trainer)[0] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert logs(trainer, "rewards/margins")[0] == pytest.approx(0.0, abs=1e-6)
    assert logs(trainer, "rewards/margins")[1] > 1e-3


def test_the_reference_of_pissa_gives_the_log_probabilities_of_the_model_it_was_put_onto(tmp_path):
    dpo(tmp_path, SMALL | STARTS["pissa"])
    (file,) = (tmp_path / "reference").glob("*.safetensors")
    found = load_file(file)["ref_logprobs"]
    tokenizer = build_tokenizer()
    sequences, prompts = [], []
    for pair in PAIRS[:4]:
        for answer in ("chosen", "rejected"):
            prompt = tokenizer(pair["prompt"])["input_ids"]
            sequences.append(tokenizer(pair["prompt"] + pair[answer])["input_ids"] + [tokenizer.eos_token_id])
            prompts.append(len(prompt))
    with torch.no_grad():
        expected = torch.cat(padded_logprobs(build_model("qwen2"), sequences, prompts))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_drift_is_measured_from_the_start_of_pissa(tmp_path):
    model = build_model("qwen2", max_position_embeddings=64)  # so that the answers are short
    trainer = sft(tmp_path, model, SMALL | STARTS["pissa"], learning_rate=0.0, drift_steps=1, max_steps=1)
    trainer.train()
    assert logs(trainer, "drift/prompts/kl_reverse") == pytest.approx([0.0], abs=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        {"init_lora_weights": "pissa_niter_2", "use_rslora": True},
        {"use_dora": True, "lora_dropout": 0.2},
        {"modules_to_save": ["lm_head"], "trainable_token_indices": [3, 7]},
    ],
)
def test_a_run_goes_on_bit_for_bit(tmp_path, kind):
    def build():
        options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2, "learning_rate": 1e-2}
        return sft(tmp_path, None, SMALL | kind, **options)

    whole = build()
    whole.train()
    resumed = build()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert jobs.weights_hash(resumed.model) == jobs.weights_hash(whole.model)


@pytest.mark.parametrize("kind", ["pissa", "dora", "rows"])
def test_rollouts_fit_the_model_and_leave_it_as_it_was(tmp_path, kind):
    """The first step is on policy and at the reference, and what is not trained is bit for bit what it was."""
    config = GRPOConfig(
        **{**QUIET, "output_dir": str(tmp_path), "per_device_train_batch_size": 8, "num_generations": 4,
           "max_completion_length": 4, "learning_rate": 1e-2, "max_steps": 3, "beta": 0.1},
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=build_model("qwen2", initializer_range=0.05), args=config, train_dataset=jobs.PROMPTS,
        reward_funcs=lambda completion_ids, **columns: [float(sum(ids) % 5) for ids in completion_ids],
        processing_class=build_tokenizer(), peft_config=SMALL | STARTS[kind],
    )  # fmt: skip
    before = tensors(trainer.model)
    trainer.train()
    assert logs(trainer, "importance_ratio/abs_log_mean")[0] < 1e-4
    assert logs(trainer, "kl")[0] == pytest.approx(0.0, abs=1e-6)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name not in trained)
    assert any(not torch.equal(before[name], after[name]) for name in trained)


@pytest.mark.parametrize("given", ["peft_config", "adapted model"])
def test_an_adapter_is_trained_with_ten_times_the_default_learning_rate(tmp_path, capsys, given):
    if given == "peft_config":
        trainer = sft(tmp_path, None, SMALL, max_steps=1, lr_scheduler_type="constant")
    else:
        adapted = get_peft_model(build_model("qwen2"), LoraConfig(r=2, target_modules="all-linear"))
        trainer = sft(tmp_path, adapted, max_steps=1, lr_scheduler_type="constant")
    said = capsys.readouterr().out
    assert "learning_rate 0.0002, 10 times the 2e-05 of full fine-tuning, as adapters want" in said
    assert "on 14 layers" in said
    trainer.train()
    assert trainer.args.learning_rate == logs(trainer, "learning_rate")[0] == 2e-4
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["learning_rate"] == 2e-4


@pytest.mark.parametrize("kind", [STARTS["pissa"], STARTS["olora"], {"use_rslora": True}])
def test_kinds_that_move_the_weights_as_far_as_full_training_keep_its_learning_rate(tmp_path, capsys, kind):
    assert sft(tmp_path, None, SMALL | kind).args.learning_rate == 2e-5
    assert "learning_rate 2e-05, that of full fine-tuning, as this kind of adapter wants" in capsys.readouterr().out


def test_a_learning_rate_that_is_set_stays(tmp_path, capsys):
    assert sft(tmp_path, None, SMALL, learning_rate=2e-5).args.learning_rate == 2e-5
    assert sft(tmp_path).args.learning_rate == 2e-5  # of all weights
    assert dpo(tmp_path, SMALL).args.learning_rate == pytest.approx(1e-5)
    assert "learning_rate" in capsys.readouterr().out


def test_a_run_with_the_chosen_learning_rate_is_resumed_with_it(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    whole = sft(tmp_path, None, SMALL, **options)
    whole.train()
    resumed = sft(tmp_path, None, SMALL, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert logs(resumed, "learning_rate")[-1] == pytest.approx(logs(whole, "learning_rate")[-1])
    assert jobs.weights_hash(resumed.model) == jobs.weights_hash(whole.model)


def test_a_reward_models_default_learning_rate_is_an_adapters_already(tmp_path):
    trainer = RewardTrainer(
        model=build_model("qwen2"), args=RewardConfig(**{**QUIET, "output_dir": str(tmp_path)}),
        train_dataset=PAIRS[:4], processing_class=build_tokenizer(), peft_config=SMALL,
    )  # fmt: skip
    assert trainer.args.learning_rate == 1e-4


THINKING = [
    {
        "messages": [
            {"role": "user", "content": f"What is {i}?"},
            {"role": "assistant", "content": f"<think>{i}</think> {i}"},
        ]
    }
    for i in range(8)
]


@pytest.mark.parametrize(
    ("tied", "kind"), [(False, None), (True, None), (False, SMALL), (True, SMALL), (True, SMALL | STARTS["pissa"])]
)
def test_new_tokens_get_rows_that_are_trained(tmp_path, tied, kind):
    base, tokenizer = build_model("qwen2", tie_word_embeddings=tied), build_tokenizer()
    old = base.model.embed_tokens.weight.detach().clone()
    trainer = sft(
        tmp_path, base, kind, THINKING, tokenizer, learning_rate=1e-2, add_tokens=["<think>", "</think>"],
        add_special_tokens=["<|tool|>"],
    )  # fmt: skip
    assert tokenizer("<think>1")["input_ids"][0] == len(old)
    start = trainer.model.get_input_embeddings().weight[len(old) :].detach().clone()
    torch.testing.assert_close(start, old.mean(dim=0).expand(3, -1))
    trainer.train()
    trainer.save_model(tmp_path / "model")
    saved, saved_tokenizer = (
        kind_.from_pretrained(tmp_path / "model") for kind_ in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert saved.config.vocab_size == len(saved_tokenizer) == len(old) + 3
    assert (
        saved_tokenizer.decode(saved_tokenizer("<think><|tool|>")["input_ids"], skip_special_tokens=True) == "<think>"
    )
    for module in (saved.model.embed_tokens, saved.lm_head):
        assert (module.weight[len(old) : len(old) + 2] != start[:2]).any(dim=1).all()
    changed = (saved.model.embed_tokens.weight[: len(old)] != old).any(dim=1).sum()
    assert (changed == 0) == (kind is not None)  # an adapter trains the new rows only
    with torch.no_grad():
        row = torch.tensor([[5, len(old), 6]])
        torch.testing.assert_close(saved(row).logits, trainer.model(row).logits, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_with_new_tokens_is_resumed_and_loaded_as_a_model(tmp_path, tiny_model_dir):
    path = tiny_model_dir("qwen2")

    def build():
        return sft(
            tmp_path / "run", path, SMALL, THINKING, AutoTokenizer.from_pretrained(path), learning_rate=1e-2,
            add_special_tokens=["<think>", "</think>"], save_strategy="steps", save_steps=1,
        )  # fmt: skip

    whole = build()
    whole.train()
    resumed = build()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert jobs.weights_hash(resumed.model) == jobs.weights_hash(whole.model)
    loaded = load_model(tmp_path / "run" / "checkpoint-2")
    assert isinstance(loaded, PeftModel)
    row = torch.tensor([[5, 384, 385]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(row).logits, whole.model(row).logits)


def test_tokens_that_are_there_are_not_begun_anew(tmp_path):
    """As in a second stage that names the tokens of the first."""
    tokenizer, model = build_tokenizer(), build_model("qwen2")
    sft(tmp_path, model, None, THINKING, tokenizer, add_tokens=["<think>"])
    with torch.no_grad():
        model.model.embed_tokens.weight[384] = 7.0
    second = sft(tmp_path, model, None, THINKING, tokenizer, add_tokens=["<think>", "Paris"])
    assert (second.model.get_input_embeddings().weight[384] == 7.0).all()
    assert second.model.get_input_embeddings().weight.shape[0] == 385 + ("Paris" not in build_tokenizer().get_vocab())


def test_spare_rows_of_the_model_are_used(tmp_path):
    model, tokenizer = build_model("qwen2", vocab_size=400), build_tokenizer()
    trainer = sft(tmp_path, model, SMALL, THINKING, tokenizer, add_tokens=["<think>"])
    rows = trainer.model.get_input_embeddings().weight
    assert rows.shape[0] == 400
    torch.testing.assert_close(rows[384], rows[:384].mean(dim=0))


@pytest.mark.parametrize("kind", [None, SMALL])
def test_a_reward_model_gets_new_tokens(tmp_path, kind):
    rows = [{**pair, "chosen": f"{pair['chosen']}<end>"} for pair in PAIRS[:4]]
    tokenizer = build_tokenizer()
    trainer = RewardTrainer(
        model=build_model("qwen2"), train_dataset=rows, peft_config=kind, processing_class=tokenizer,
        args=RewardConfig(**{**QUIET, "output_dir": str(tmp_path / "run"), "add_special_tokens": ["<end>"]}),
    )  # fmt: skip
    start = trainer.model.get_input_embeddings().weight[384].detach().clone()
    trainer.train()
    trainer.save_model(tmp_path / "model")
    saved = load_score_model(tmp_path / "model", device="cpu")
    assert saved.config.vocab_size == 385
    assert (saved.get_input_embeddings().weight[384] != start).any()
    row = torch.tensor([[5, 9, 384]])
    with torch.no_grad():
        torch.testing.assert_close(saved(row).logits, trainer.model(row).logits, atol=1e-4, rtol=1e-4)


def test_a_reference_by_path_gets_the_rows_that_the_policy_begins_with(tmp_path, tiny_model_dir):
    path = tiny_model_dir("qwen2")
    rows = [{**pair, "chosen": f"{pair['chosen']}<end>"} for pair in PAIRS[:4]]
    trainer = DPOTrainer(
        model=path, ref_model=path, train_dataset=rows, peft_config=SMALL,
        args=DPOConfig(**{**QUIET, "output_dir": str(tmp_path / "run"), "add_special_tokens": ["<end>"]}),
    )  # fmt: skip
    trainer.train()
    assert logs(trainer)[0] == pytest.approx(0.6931471805599453, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"add_tokens": ["<a>"], "add_special_tokens": ["<a>"]}, ConfigError, "'<a>' is empty or named twice"),
        ({"add_tokens": [" "]}, ConfigError, "is empty"),
        ({"model": "adapted", "add_tokens": ["<a>"]}, ModelError, "beside which no rows can be added. Merge it first"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused(tmp_path, options, error, message):
    adapted = get_peft_model(build_model("qwen2"), LoraConfig(r=2, target_modules="all-linear"))
    model = adapted if options.pop("model", None) else None
    with pytest.raises(error, match=message):
        sft(tmp_path, model, **options)
