"""Real files, a tiny model: a run that stops half way is resumed to the same end, and every row is accounted for."""

import os
from pathlib import Path

import pytest
from tiny import build_model, build_tokenizer
from transformers import TrainerCallback

from posttrain import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    OfflineRLConfig,
    OfflineRLTrainer,
    SFTConfig,
    SFTTrainer,
)


class StopAtTwo(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


FILES = [
    ("sft", "llamafactory_demo/identity.json"),
    ("sft", "llamafactory_demo/alpaca_en_demo.json"),
    ("sft", "gsm8k/test.jsonl"),
    ("dpo", "llamafactory_demo/dpo_en_demo.json"),
    ("kto", "llamafactory_demo/kto_en_demo.json"),
    ("offline", "llamafactory_demo/kto_en_demo.json"),
]


def build(method, file, output_dir, max_steps, callbacks=None):
    settings = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 4, "max_steps": max_steps, "save_steps": 2,
        "max_length": 384, "logging_steps": 1, "use_cpu": True, "bf16": False, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    shared = {"model": build_model("qwen2"), "train_dataset": str(file), "processing_class": build_tokenizer()} | {
        "callbacks": callbacks
    }
    if method == "offline":  # one answer to a prompt, good or bad
        return OfflineRLTrainer(args=OfflineRLConfig(**settings, advantage_baseline="data_mean"), **shared)
    if method == "kto":
        return KTOTrainer(args=KTOConfig(**settings), **shared)
    if method == "sft":
        return SFTTrainer(args=SFTConfig(**settings), **shared)
    return DPOTrainer(args=DPOConfig(**settings), **shared)


@pytest.mark.parametrize(("method", "name"), FILES)
def test_a_public_file_trains_and_resumes_with_every_row_accounted_for(tmp_path, method, name):
    folder = os.environ.get("POSTTRAIN_DATA")
    if not folder:
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    file = Path(folder) / name
    whole = build(method, file, tmp_path / "whole", max_steps=4)
    whole.train()
    report = whole.data_report
    assert report.rows_read == report.rows_kept + sum(rows.count for rows in report.dropped.values())
    assert report.rows_read > 80

    part = build(method, file, tmp_path / "part", max_steps=4, callbacks=[StopAtTwo()])
    part.train()
    assert part.state.global_step == 2
    resumed = build(method, file, tmp_path / "part", max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
