"""Options that every training on a dataset has: processes that read its rows, and noise on the embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from padded_rows import PAIRS
from tiny import build_model, build_tokenizer

from posttrain import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    OfflineRLConfig,
    OfflineRLTrainer,
    RewardConfig,
    RewardTrainer,
)
from posttrain.data import processes

REWARDED = [{"prompt": p["prompt"], "response": p[side], "reward": r} for p in PAIRS for side, r in
            (("chosen", 1.0), ("rejected", 0.0))]  # fmt: skip
TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig, PAIRS, {}),
    "synced": (DPOTrainer, DPOConfig, PAIRS, {"sync_ref_model": True, "ref_model_sync_steps": 1}),
    "kto": (KTOTrainer, KTOConfig, PAIRS, {}),
    "reward": (RewardTrainer, RewardConfig, PAIRS, {}),
    "offline": (OfflineRLTrainer, OfflineRLConfig, REWARDED, {}),
}


def losses(kind: str, directory: Path, **options: Any) -> list[float]:
    trainer_class, config, rows, settings = TRAINERS[kind]
    model = build_model("qwen2")
    if kind == "reward":
        from transformers import AutoModelForSequenceClassification

        model.save_pretrained(directory / "start")
        model = AutoModelForSequenceClassification.from_pretrained(directory / "start", num_labels=1)
        model.score.weight.data.fill_(0.01)
    args = config(
        output_dir=str(directory), per_device_train_batch_size=4, max_steps=2, logging_steps=1, use_cpu=True,
        bf16=False, save_strategy="no", learning_rate=1e-2, **settings, **options,
    )  # fmt: skip
    trainer = trainer_class(model=model, args=args, train_dataset=rows, processing_class=build_tokenizer())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", [kind for kind in TRAINERS if kind != "synced"])
def test_rows_are_read_by_as_many_processes_as_asked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = processes.in_processes
    monkeypatch.setattr("posttrain.data.trees.in_processes", lambda w, c, n: asked.append(n) or real(w, c, n))
    assert losses(kind, tmp_path, dataset_num_proc=2) == losses(kind, tmp_path)
    assert asked == [2, 1]


@pytest.mark.parametrize("kind", TRAINERS)
def test_noise_disturbs_the_policy(kind: str, tmp_path: Path) -> None:
    plain, noisy = losses(kind, tmp_path / "plain"), losses(kind, tmp_path / "noisy", neftune_noise_alpha=5)
    assert plain[0] != noisy[0]


def test_noise_does_not_reach_the_reference(tmp_path: Path) -> None:
    """Its log-probabilities, before training and as it follows the policy, are those of a model without noise."""

    def reference(kind: str, **options: Any) -> Any:
        trainer_class, config, rows, settings = TRAINERS[kind]
        args = config(
            output_dir=str(tmp_path / kind), use_cpu=True, bf16=False, per_device_train_batch_size=4, **settings,
            **options,
        )  # fmt: skip
        trainer = trainer_class(
            model=build_model("qwen2"), args=args, train_dataset=rows, processing_class=build_tokenizer()
        )
        trainer._learner.train()
        return trainer._plan.source().next().ref_logprobs

    for kind in ("dpo", "synced", "kto"):
        plain, noisy = reference(kind), reference(kind, neftune_noise_alpha=50)
        assert (plain == noisy).all(), kind
