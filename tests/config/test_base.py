"""What every configuration does: checks, explanations, YAML there and back."""

from __future__ import annotations

import enum
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.config import Config, DPOConfig, SFTConfig, TrainingConfig
from posttrain.config.command import DPOCommand, SFTCommand
from posttrain.errors import ConfigError


def refusal(config: type[Config], **values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config(**values)
    return str(caught.value)


def test_the_default_configuration_is_allowed() -> None:
    for config in (TrainingConfig, SFTConfig, DPOConfig):
        assert config().output_dir == "trainer_output"


def test_output_dir_is_positional_and_may_be_a_path() -> None:
    assert SFTConfig("out").output_dir == "out"
    assert SFTConfig(Path("out") / "x").output_dir == "out/x"
    assert SFTConfig(None).output_dir == "trainer_output"
    with pytest.raises(TypeError, match="output_dir twice"):
        SFTConfig("out", output_dir="other")


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    assert "did you mean 'learning_rate'" in refusal(SFTConfig, learnig_rate=1e-4)
    assert "did you mean 'gradient_accumulation_steps'" in refusal(SFTConfig, gradient_acumulation_step=1)
    assert "did you mean 'beta'" in refusal(DPOConfig, betta=0.1)


def test_an_unknown_field_far_from_all_names_lists_them() -> None:
    assert "max_tokens_per_pass" in refusal(SFTConfig, qqqq=1)


def test_several_problems_are_told_at_once() -> None:
    text = refusal(SFTConfig, learnig_rate=1, seed=-1, optim="adamw")
    assert text.count("\n") == 2
    assert "learnig_rate" in text
    assert "seed=-1" in text
    assert "did you mean 'adamw_torch'" in text


def test_assignment_is_checked_and_undone() -> None:
    config = DPOConfig(loss_type=["robust", "sft"], loss_weights=[1, 0.5], label_smoothing=0.1)
    with pytest.raises(ConfigError, match="learning_rate=-1 is not allowed"):
        config.learning_rate = -1
    with pytest.raises(ConfigError, match="loss_weights has 2 values for 1 losses"):
        config.loss_type = ["robust"]
    with pytest.raises(ConfigError, match="unknown field 'learnig_rate'"):
        config.learnig_rate = 1
    assert config.learning_rate == 1e-6
    assert config.loss_type == ["robust", "sft"]
    config.learning_rate = 2e-6
    assert config.learning_rate == 2e-6


def test_an_old_name_can_be_assigned_too() -> None:
    config = SFTConfig()
    with pytest.warns(FutureWarning, match="use_cpu"):
        config.no_cuda = True
    assert config.use_cpu


def test_enumerations_paths_and_dtypes_become_plain() -> None:
    class Schedule(enum.StrEnum):
        COSINE = "cosine"

    class FakeDtype:
        def __str__(self) -> str:
            return "torch.bfloat16"

    FakeDtype.__module__ = "torch"  # as torch.dtype says of itself
    config = SFTConfig(
        lr_scheduler_type=Schedule.COSINE, dtype=FakeDtype(), resume_from_checkpoint=Path("a/checkpoint-2")
    )
    assert config.lr_scheduler_type == "cosine"
    assert config.dtype == "bfloat16"
    assert config.resume_from_checkpoint == "a/checkpoint-2"


def test_numbers_as_text_are_read_and_booleans_are_no_numbers() -> None:
    assert SFTConfig(learning_rate="2e-5").learning_rate == 2e-5
    assert SFTConfig(max_length="none").max_length is None
    assert "max_steps=True is not allowed" in refusal(SFTConfig, max_steps=True)
    assert "learning_rate=True is not allowed" in refusal(SFTConfig, learning_rate=True)


def test_a_warning_points_at_the_line_that_set_the_field(recwarn: pytest.WarningsRecorder) -> None:
    SFTConfig(no_cuda=True)
    assert recwarn[0].filename == __file__


def test_yaml_there_and_back(tmp_path: Path) -> None:
    config = DPOConfig(
        "out", learning_rate=1e-7, loss_type=["sigmoid", "sft"], model_init_kwargs={"revision": "x"}, eval_strategy="no"
    )
    file = tmp_path / "dpo.yaml"
    file.write_text(config.to_yaml())
    assert DPOConfig.from_yaml(file) == config


def test_overrides_change_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("learning_rate: 1e-4\nmodel_init_kwargs:\n  revision: main\n")
    config = SFTConfig.from_yaml(
        file, ["learning_rate=3e-4", "model_init_kwargs.subfolder=a", "run_name=17", "max-steps=3", "bf16=false"]
    )
    assert config.learning_rate == 3e-4
    assert config.model_init_kwargs == {"revision": "main", "subfolder": "a"}
    assert config.run_name == "17"
    assert config.max_steps == 3
    assert config.bf16 is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate", "write field=value"),
        ("learning_rate=fast", "override 'learning_rate=fast': learning_rate='fast' is not allowed"),
        ("learning_rate.x=1", "has no field 'x'"),
        ("lerning_rate=1", "did you mean 'learning_rate'"),
    ],
)
def test_broken_overrides(tmp_path: Path, override: str, message: str) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("learning_rate: 1e-4\n")
    with pytest.raises(ConfigError) as caught:
        SFTConfig.from_yaml(file, [override])
    assert message in str(caught.value)


def test_errors_in_a_file_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("# a comment\nseed: 1\nlearning_rate: -1\nlogging_stps: 2\n")
    with pytest.raises(ConfigError) as caught:
        SFTConfig.from_yaml(file)
    assert f"{file} line 3: learning_rate=-1" in str(caught.value)
    assert f"{file} line 4: unknown field 'logging_stps'; did you mean 'logging_steps'" in str(caught.value)


def test_replace_keeps_what_was_set_and_checks_again() -> None:
    config = SFTConfig("out", learning_rate=1e-4)
    assert config.replace(seed=1).to_dict() == {**config.to_dict(), "seed": 1}
    with pytest.raises(ConfigError):
        config.replace(seed=-1)


def test_a_command_hands_its_training_fields_on() -> None:
    command = SFTCommand(model="m", train_dataset="d.jsonl", learning_rate=1e-4, eval_strategy="no")
    assert command.training() == SFTConfig(learning_rate=1e-4, eval_strategy="no")
    preference = DPOCommand(model="m", train_dataset="d", beta=0.2, use_peft=True, lora_target_modules="q_proj")
    assert preference.training().beta == 0.2
    assert preference.peft_settings() == {
        "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip


def test_a_command_needs_model_and_data() -> None:
    text = refusal(SFTCommand)
    assert "model is missing" in text
    assert "train_dataset is missing" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": 8}, "only together with use_peft=true"),
        ({"eval_strategy": "epoch"}, "needs an eval_dataset"),
        ({"eval_dataset": "e.jsonl"}, "never used with eval_strategy='no'"),
        ({"load_in_4bit": True}, "quantised"),
        ({"model": " "}, "model is empty"),
    ],
)
def test_what_a_command_refuses(values: dict[str, object], message: str) -> None:
    assert message in refusal(SFTCommand, **{"model": "m", "train_dataset": "d", **values})


def test_the_configuration_reaches_no_heavy_library() -> None:
    code = (
        "import sys, posttrain.config as c; c.SFTConfig(); c.DPOConfig(); c.TrainingConfig(); c.load_recipe; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'peft', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
