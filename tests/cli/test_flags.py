"""Flags made from fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli.flags import parse, read
from posttrain.config.command import DPOCommand, GRPOCommand, SFTCommand
from posttrain.errors import ConfigError

NEEDED = ["--train_dataset", "d.jsonl", "--model", "m"]  # a dataset may be several files


def sft(*words: str) -> SFTCommand:
    return read(SFTCommand, [*NEEDED, *words])


def dpo(*words: str) -> DPOCommand:
    return read(DPOCommand, [*NEEDED, *words])


def test_flags_with_underscores_hyphens_and_equals() -> None:
    assert sft("--learning_rate", "1e-4").learning_rate == 1e-4
    assert sft("--learning-rate", "1e-4").learning_rate == 1e-4
    assert sft("--learning-rate=1e-4").learning_rate == 1e-4
    assert sft("learning_rate=1e-4").learning_rate == 1e-4
    assert sft("--max_steps", "-1").max_steps == -1


def test_booleans() -> None:
    assert sft("--bf16").bf16 is True
    assert sft("--bf16", "false").bf16 is False
    assert sft("--bf16=no").bf16 is False
    assert sft("--no_bf16").bf16 is False
    assert sft("--no-bf16", "--use_cpu").use_cpu is True
    assert sft("--bf16", "max_steps=3").max_steps == 3
    assert sft("--resume_from_checkpoint").resume_from_checkpoint is True
    assert sft("--resume_from_checkpoint", "out/checkpoint-3").resume_from_checkpoint == "out/checkpoint-3"
    assert sft("--resume_from_checkpoint", "7").resume_from_checkpoint == "7"


def test_lists_and_mappings() -> None:
    both = dpo("--loss_type", "sigmoid", "sft", "--loss_weights", "1", "0.5")
    assert (both.loss_type, both.loss_weights) == (["sigmoid", "sft"], [1.0, 0.5])
    assert dpo("--loss_type", "ipo").loss_type == ["ipo"]
    assert dpo("--loss_type", "[sigmoid, sft]", "beta=0.2").beta == 0.2
    assert dpo("--loss_weights", "2").loss_weights == [2.0]
    assert sft("--lr_scheduler_kwargs", "{num_cycles: 2}").lr_scheduler_kwargs == {"num_cycles": 2}
    assert sft("--lr_scheduler_kwargs.num_cycles", "2").lr_scheduler_kwargs == {"num_cycles": 2}
    assert sft("--use_peft", "--lora_target_modules", "q_proj", "v_proj").lora_target_modules == ["q_proj", "v_proj"]


def test_text_stays_text_and_none_is_none() -> None:
    assert sft("--run_name", "007").run_name == "007"
    assert sft("--run_name", "true").run_name == "true"
    assert sft("--max_length", "none").max_length is None


def test_old_names_work_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert sft("--no_cuda").use_cpu is True
    assert sft("--max_seq_length", "64").max_length == 64
    assert "note: --max_seq_length: max_seq_length is an old name" in capsys.readouterr().err
    assert sft("--fp16", "false") == sft()
    assert sft("--model_name_or_path", "m") == sft()


def test_what_sft_does_with_rows_is_said_by_flags() -> None:
    words = "--packing --packing_strategy wrapped --padding_free --shuffle_dataset --dataset_num_proc 2 --loss_type dft"
    command = sft(*words.split(), "--dataset_kwargs", "{skip_prepare_dataset: true}", "--neftune_noise_alpha", "5")
    assert (command.packing, command.packing_strategy, command.padding_free) == (True, "wrapped", True)
    assert (command.shuffle_dataset, command.dataset_num_proc, command.loss_type) == (True, 2, "dft")
    assert command.training().dataset_kwargs == {"skip_prepare_dataset": True}
    assert command.training().neftune_noise_alpha == 5.0
    assert sft("--label_smoothing_factor", "0.1", "--chat_template_path", "zephyr").label_smoothing_factor == 0.1


def test_a_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("model: a\ntrain_dataset: b.jsonl\nlearning_rate: 1e-4\nseed: 5\n")
    command = read(SFTCommand, ["--config", str(file), "--seed", "6", "max_steps=2"])
    assert (command.model, command.learning_rate, command.seed, command.max_steps) == ("a", 1e-4, 6, 2)
    assert read(SFTCommand, ["-c", str(file)]).seed == 5
    assert read(SFTCommand, [f"--config={file}"]).seed == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lerning_rate", "1"], "--lerning_rate: unknown field 'lerning_rate'; did you mean 'learning_rate'"),
        (["--lerning-rate"], "did you mean 'learning_rate'"),
        (["--learning-rate", "-1"], "--learning-rate: learning_rate=-1 is not allowed"),
        (["--learning_rate"], "--learning_rate needs a value after it: a number of at least 0"),
        (["--learning_rate", "--seed", "1"], "--learning_rate needs a value"),
        (["--bf16", "perhaps"], "'perhaps' stands alone"),
        (["--do_predict"], "call posttrain evaluate"),
        (["--packing", "--max_length", "none"], "sets no size"),
        (["sft.yaml"], "did you mean `--config sft.yaml`"),
        (["somewhere"], "did you mean `--model somewhere`"),
        (["lerning_rate=1"], "override 'lerning_rate=1': unknown field"),
        (["--parallelism_config", "x"], "not supported here"),
        (["--config"], "--config needs a value after it"),
        (["--config", "missing.yaml"], "no file 'missing.yaml'"),
        (["--max_steps=0"], "--max_steps: max_steps=0 trains nothing"),
        (["--lora_r", "4"], "--lora_r: lora_r has an effect only together with use_peft=true"),
    ],
)
def test_broken_command_lines(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sft(*words)
    assert message in str(caught.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read(SFTCommand, ["--seed", "1"])
    assert "command line: model is missing: Directory or name" in str(caught.value)


def test_every_field_can_be_given_as_a_flag() -> None:
    for config in (SFTCommand, DPOCommand, GRPOCommand):
        for name in config.model_fields:
            given = parse(config, [f"--{name}", "1"])
            assert [flag for flag, _, _ in given.flags] == [name]
