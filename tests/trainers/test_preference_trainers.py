"""Pairs learnt by every loss, a reference that follows the policy, and none at all."""

from __future__ import annotations

import pytest
import torch
from padded_rows import PAIRS
from tiny import build_model, build_tokenizer

from benchmarks.preference_losses import LOSSES
from posttrain import BCOConfig, CPOConfig, CPOTrainer, DPOConfig, DPOTrainer, KTOConfig, ORPOConfig, ORPOTrainer
from posttrain.algorithms.preference_losses import PREFERENCE_LOSSES
from posttrain.algorithms.unpaired import UNPAIRED_LOSSES
from posttrain.cli import main as cli
from posttrain.errors import ConfigError

SETTINGS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "logging_steps": 1,
    "use_cpu": True, "bf16": False, "num_threads": 1, "max_tokens_per_pass": 200,
}  # fmt: skip
BIG = {"ipo": 0.5, "sigmoid_norm": 5.0, "sppo_hard": 0.1, "simpo": 2.0}


def trained(trainer, config, directory, *, rows=PAIRS[:8], resume=None, model=None, **options):
    made = trainer(
        model=model or build_model("qwen2"), args=config(output_dir=str(directory), **{**SETTINGS, **options}),
        train_dataset=rows, processing_class=build_tokenizer(),
    )  # fmt: skip
    made.train(resume_from_checkpoint=resume)
    return made


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "sigmoid_norm"},
        {"loss_type": "exo_pair", "label_smoothing": 0.001},
        {"loss_type": "nca_pair"},
        {"loss_type": "bco_pair"},
        {"loss_type": "sppo_hard", "learning_rate": 3e-4},
        {"loss_type": "apo_zero"},
        {"loss_type": "apo_down"},
        {"loss_type": "discopop"},
        {"f_divergence_type": "js_divergence", "ld_alpha": 0.5},
        {"use_weighting": True},
        {"sync_ref_model": True, "ref_model_sync_steps": 8},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_every_loss_learns_eight_pairs(tmp_path, settings):
    beta = BIG.get(settings.get("loss_type"), 0.3)
    trainer = trained(
        DPOTrainer, DPOConfig, tmp_path, save_strategy="no", num_train_epochs=6, beta=beta, **settings
    )  # fmt: skip
    assert logged(trainer, "rewards/margins")[-1] > 0
    assert logged(trainer, "rewards/accuracies")[-1] == 1.0


@pytest.mark.parametrize(
    ("trainer", "config", "settings"),
    [
        (CPOTrainer, CPOConfig, {}),
        (CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0}),
        (CPOTrainer, CPOConfig, {"loss_type": "alphapo", "alpha": 0.1, "beta": 2.0}),
        (ORPOTrainer, ORPOConfig, {"beta": 1.0}),
    ],
)
def test_without_a_reference_none_is_computed(tmp_path, trainer, config, settings):
    made = trained(trainer, config, tmp_path, save_strategy="no", num_train_epochs=6, **settings)
    assert not (tmp_path / "reference").exists()
    margins = logged(made, "rewards/margins")
    assert margins[-1] > margins[0]
    assert not any("alarm" in entry for entry in made.state.log_history)  # nothing to be displaced from


def following(directory, **options):
    synced = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5, **options}
    return trained(DPOTrainer, DPOConfig, directory, beta=0.5, max_steps=7, save_steps=3, **synced)


def test_a_reference_that_is_the_policy_has_margin_zero_after_each_sync(tmp_path):
    margins = logged(following(tmp_path, ref_model_mixup_alpha=1.0), "rewards/margins")
    assert [abs(m) < 1e-6 for m in margins] == [True, False] * 3 + [True]


def test_a_synced_reference_is_resumed_as_it_was(tmp_path):
    whole = following(tmp_path / "whole")
    assert (tmp_path / "whole" / "checkpoint-3" / "reference.safetensors").exists()
    again = following(tmp_path / "whole", resume=str(tmp_path / "whole" / "checkpoint-3"))
    assert logged(again, "loss") == logged(whole, "loss")
    for mine, other in zip(again.model.parameters(), whole.model.parameters()):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("extra", [{"ref_model": "other"}, {"peft_config": {"r": 2}}])
def test_a_synced_reference_begins_as_the_policy_and_is_whole(tmp_path, extra):
    with pytest.raises(ConfigError, match="without an adapter"):
        DPOTrainer(
            model=build_model("qwen2"), args=DPOConfig(output_dir=str(tmp_path), sync_ref_model=True),
            train_dataset=PAIRS, processing_class=build_tokenizer(), **extra,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["cpo", "orpo"])
def test_the_commands(tmp_path, tiny_model_dir, capsys, method):
    assert cli.main([method, "--help"]) == 0
    assert "--beta " in capsys.readouterr().out
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("prompt,chosen,rejected\n" + "\n".join(f"Who {i}?, I am it, I am not" for i in range(4)))
    words = [
        method, "--model", tiny_model_dir("qwen2"), "--train_dataset", str(pairs), "--output_dir",
        str(tmp_path / "run"), "--max_steps", "2", "--use_cpu", "--bf16", "false",
    ]  # fmt: skip
    assert cli.main(words) == 0
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_benchmark_compares_every_loss():
    configs = {"dpo": DPOConfig, "cpo": CPOConfig, "orpo": ORPOConfig, "kto": KTOConfig, "bco": BCOConfig}
    for method, settings in LOSSES.values():
        configs[method](**settings)
    assert {*PREFERENCE_LOSSES, *UNPAIRED_LOSSES} <= set(LOSSES)
