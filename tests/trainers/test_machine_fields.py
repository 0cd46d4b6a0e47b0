"""What the fields of machine, memory, processes and speech do to a run; each effect is seen from outside."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from padded_rows import CONVERSATIONS, PAIRS
from tiny import build_model, build_tokenizer
from transformers import AutoConfig, TrainerCallback

from posttrain import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from posttrain.engine.checkpoint import checkpoints
from posttrain.errors import ConfigError, TrainingError


def sft(tmp_path, *, model=None, callbacks=None, **fields):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "max_steps": 2, "bf16": None if fields.get("fp16") else False, "learning_rate": 1e-3,
    } | fields  # fmt: skip
    return SFTTrainer(
        model=model or build_model("llama"), args=SFTConfig(**settings), train_dataset=CONVERSATIONS,
        processing_class=build_tokenizer(), callbacks=callbacks,
    )  # fmt: skip


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def trained(tmp_path, **fields):
    trainer = sft(tmp_path, **fields)
    trainer.train()
    return trainer


class Seen(TrainerCallback):
    """Calls a function at the end of each step."""

    def __init__(self, look):
        self.look = look

    def on_step_end(self, args, state, control, **kwargs):
        self.look(state)


def test_float16_gives_the_same_losses_to_its_rounding_and_is_resumed_with_its_scale(tmp_path):
    plain = losses(trained(tmp_path / "plain"))
    half = trained(tmp_path / "half", fp16=True, save_strategy="steps", save_steps=1)
    assert losses(half) == pytest.approx(plain, rel=1e-2)
    assert losses(half) != plain
    again = sft(tmp_path / "half", fp16=True, save_strategy="steps", save_steps=1)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-1"))
    assert losses(again) == losses(half)
    with pytest.raises(ConfigError, match="keep one"):
        SFTConfig(fp16=True, bf16=True)


def test_tf32_sets_what_cuda_may_do(tmp_path):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for wanted in (True, False):
            sft(tmp_path, tf32=wanted)
            assert torch.backends.cuda.matmul.allow_tf32 is wanted
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = before


def test_full_determinism_holds_during_the_run_and_not_after(tmp_path):
    seen = []
    look = Seen(lambda state: seen.append(torch.are_deterministic_algorithms_enabled()))
    trained(tmp_path / "a", callbacks=[look])
    trained(tmp_path / "b", callbacks=[look], full_determinism=True)
    assert seen == [False, False, True, True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_memory_is_reported_where_it_is_asked_for(tmp_path):
    held = []  # fifty megabytes that the run did not hold at first
    grown = trained(
        tmp_path / "a", skip_memory_metrics=False,
        callbacks=[Seen(lambda state: held.append(torch.ones(50_000_000 // 4)))], max_steps=1,
    )  # fmt: skip
    metrics = grown.state.log_history[-1]
    assert metrics["train_mem_cpu_before"] > 1e7
    assert metrics["train_mem_cpu_alloc_delta"] + metrics["train_mem_cpu_peaked_delta"] > 4e7
    assert not any("mem" in name for name in trained(tmp_path / "b").state.log_history[-1])


def test_use_cache_is_written_into_the_saved_configuration(tmp_path):
    for asked, written in ((None, True), (False, False)):
        sft(tmp_path, use_cache=asked).save_model(tmp_path / str(asked))
        assert AutoConfig.from_pretrained(tmp_path / str(asked)).use_cache is written


def test_debug_stops_at_the_first_module_whose_numbers_are_not_finite(tmp_path):
    model = build_model("llama")
    trainer = sft(tmp_path, model=model, debug="underflow_overflow")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"model\.layers\.1\.mlp\.up_proj .*what it was given is finite"):
        trainer.train()
    assert not model.model.layers[1].mlp.up_proj._forward_hooks


def test_a_loss_that_is_not_finite_is_shown_where_the_filter_is_off(tmp_path):
    def spoil(state):  # the next step's loss is nan
        if state.global_step == 1:
            with torch.no_grad():
                models[-1].lm_head.weight[0, 0] = float("nan")

    shown, models = {}, []
    for filtered in (True, False):
        models.append(build_model("llama"))
        trainer = sft(
            tmp_path / str(filtered), model=models[-1], logging_nan_inf_filter=filtered, callbacks=[Seen(spoil)],
            logging_steps=2,
        )  # fmt: skip
        trainer.train()
        shown[filtered] = losses(trainer)[0]
    assert shown[True] == pytest.approx(6, abs=3)
    assert shown[False] != shown[False]


@pytest.mark.parametrize(("asked", "named"), [(False, False), (True, True), ("non_padding", True)])
def test_tokens_seen_are_shown_by_transformers_name_where_asked_for(tmp_path, asked, named):
    log = trained(tmp_path, include_num_input_tokens_seen=asked, max_steps=1).state.log_history[0]
    assert ("num_input_tokens_seen" in log) is named
    assert log["num_tokens"] == log.get("num_input_tokens_seen", log["num_tokens"]) > 0


def test_a_level_of_warnings_keeps_the_run_from_talking_and_not_from_warning(tmp_path, capsys):
    trained(tmp_path / "a", max_steps=1)
    assert "rows read" in capsys.readouterr().out
    for level, warned in (("warning", True), ("critical", False)):
        trainer = sft(tmp_path / level, max_steps=1, log_level=level)
        with torch.no_grad():
            trainer.model.lm_head.weight[0, 0] = float("nan")
        trainer.train()
        said = capsys.readouterr().out
        assert "rows read" not in said
        assert ("Step 1 skipped" in said) is warned
        assert bool(said) is warned


def test_sigterm_saves_and_ends_the_run_unless_it_is_left_alone(tmp_path):
    def terminate(state):
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = sft(tmp_path / "a", callbacks=[Seen(terminate)], max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [path.name for path in checkpoints(tmp_path / "a")] == ["checkpoint-1"]
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append("mine"))
    try:
        trained(tmp_path / "b", callbacks=[Seen(terminate)], enable_jit_checkpoint=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == ["mine"]


def test_memory_of_cuda_is_given_back_every_so_many_steps(tmp_path, monkeypatch):
    trainer = sft(tmp_path, torch_empty_cache_steps=2, max_steps=5)
    calls = []
    monkeypatch.setattr(trainer._runtime, "empty_cache", lambda: calls.append(1))
    trainer.train()
    assert len(calls) == 2


@pytest.mark.slow
def test_the_layers_are_compiled_and_compute_the_same(tmp_path):
    import torch._dynamo.utils as dynamo

    plain = losses(trained(tmp_path / "plain"))
    dynamo.counters.clear()
    compiled = trained(tmp_path / "compiled", torch_compile=True, torch_compile_backend="eager")
    assert dynamo.counters["stats"]["unique_graphs"] >= 1
    assert losses(compiled) == pytest.approx(plain, rel=1e-5)
    layers = compiled.model.model.layers
    assert all(layer._compiled_call_impl is None for layer in layers)  # generating is not compiled
    with pytest.raises(ConfigError, match=r"none of those of torch: .*inductor"):
        sft(tmp_path, torch_compile_backend="fast")


def test_naming_a_backend_or_a_mode_switches_compilation_on():
    assert not SFTConfig().compiles
    assert SFTConfig(torch_compile_backend="eager").compiles
    assert SFTConfig(torch_compile_mode="max-autotune").compiles


def test_a_mode_that_torch_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="torch_compile_mode='fast'"):
        sft(tmp_path, torch_compile_mode="fast")


def test_galore_trains_the_layers_named(tmp_path):
    trainer = trained(tmp_path, optim="galore_adamw", optim_target_modules=["mlp"], optim_args="rank=4")
    assert losses(trainer)[1] < losses(trainer)[0]


def test_a_preference_run_takes_them_too(tmp_path):
    """The fields belong to every trainer; one run stands for the others."""
    args = DPOConfig(
        output_dir=str(tmp_path), max_steps=2, logging_steps=1, use_cpu=True, save_strategy="no", fp16=True,
        full_determinism=True, skip_memory_metrics=False, optim_args="amsgrad=true", log_level="error",
        include_num_input_tokens_seen=True, per_device_train_batch_size=2,
    )  # fmt: skip
    trainer = DPOTrainer(model=build_model("llama"), args=args, train_dataset=PAIRS, processing_class=build_tokenizer())
    trainer.train()
    lines = [json.loads(line) for line in (Path(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["num_input_tokens_seen"] > 0
    assert "train_mem_cpu_before" in lines[-1]
