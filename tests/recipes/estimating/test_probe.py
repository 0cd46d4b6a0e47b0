"""What is read and chosen for a trial, and what is not tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import build_tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast

from posttrain.config.dpo import DPOConfig
from posttrain.config.sft import SFTConfig
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import DataError
from posttrain.recipes.estimating.estimate import from_events
from posttrain.recipes.estimating.probe import try_stage
from posttrain.recipes.estimating.sizes import READERS, Unit, read_sizes
from posttrain.recipes.estimating.trial import with_all_of, write_rows

ROWS = [{"prompt": f"What is {n}?", "completion": " " + "It is so. " * (n % 5 + 1)} for n in range(40)]


def test_rows_are_counted_as_the_trainer_makes_them(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    made = read_sizes("sft", ROWS, tiny_tokenizer, SFTConfig(max_length=20), name="train_dataset")
    trees = sft_trees(ROWS, tiny_tokenizer, max_length=20).trees
    assert [unit.tokens for unit in made.units] == [tree.size for tree in trees]
    assert made.count == 40
    assert max(unit.tokens for unit in made.units) == 20


def test_a_long_dataset_is_read_in_part(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.recipes.estimating.sizes.READ_ROWS", 10)
    made = read_sizes("sft", ROWS, tiny_tokenizer, SFTConfig(), name="train_dataset")
    assert (len(made.units), made.share, made.count) == (10, 0.25, 40)
    whole = sum(tree.size for tree in sft_trees(ROWS, tiny_tokenizer, max_length=None).trees)
    assert made.tokens == pytest.approx(whole, rel=0.3)


def test_packs_are_units_and_rows_their_parts(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    config = SFTConfig(packing=True, max_length=64)
    made = read_sizes("sft", ROWS, tiny_tokenizer, config, name="train_dataset")
    assert len(made.parts) == 40
    assert 0 < len(made.units) < 40
    assert max(unit.tokens for unit in made.units) <= 64


def test_pairs_share_their_prompt(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [{"prompt": "What is it?", "chosen": " A fox.", "rejected": " A wolf."}]
    made = read_sizes("dpo", pairs, tiny_tokenizer, DPOConfig(), name="train_dataset")
    assert made.units[0].tokens == preference_trees(pairs, tiny_tokenizer, max_length=None).trees[0].size
    with pytest.raises(DataError):
        read_sizes("dpo", ROWS, tiny_tokenizer, DPOConfig(), name="train_dataset")


def test_every_method_that_trains_can_be_read() -> None:
    from posttrain.config.methods import METHODS

    assert set(READERS) == {name for name, shape in METHODS.items() if hasattr(shape.fields, "training")}


def test_rows_that_json_cannot_hold_are_kept_otherwise(tmp_path: Path) -> None:
    assert json.loads(Path(write_rows([{"a": 1}], tmp_path / "plain")).read_text()) == {"a": 1}
    import datetime

    from posttrain.data.loading import load_rows

    day = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    assert load_rows(write_rows([{"day": day}], tmp_path / "dated"))[0]["day"] == day


def test_a_pair_taken_apart_counts_with_both_its_answers() -> None:
    units = [
        Unit(rows=(0,), tokens=5),
        Unit(rows=(0,), tokens=7),
        Unit(rows=(1,), tokens=11),
        Unit(rows=(2, 3), tokens=1),
    ]
    assert with_all_of(units, [1]) == ([0], 12)
    assert with_all_of(units, [2, 3]) == ([1, 2, 3], 12)


def task(model: str, tmp_path: Path, **values: Any) -> dict[str, Any]:
    rows = write_rows(ROWS, tmp_path / "rows")
    given = {"model": model, "train_dataset": rows, "per_device_train_batch_size": 8, "bf16": False, **values}
    return {"method": "sft", "seconds": 1.0, "values": given, "directory": str(tmp_path)}


def run(asked: dict[str, Any], tmp_path: Path) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    (tmp_path / "log").write_text("")
    try_stage(asked, tmp_path, lambda event, **values: told.append({"event": event, "at": 0.0, **values}), 0.0)
    return told


def test_what_is_larger_than_the_memory_is_counted_and_not_loaded(tmp_path: Path) -> None:
    model = tmp_path / "huge"
    huge = AutoConfig.for_model(
        "llama", vocab_size=384, hidden_size=65536, intermediate_size=262144, num_hidden_layers=200,
        num_attention_heads=64,
    )  # fmt: skip
    huge.save_pretrained(model)
    build_tokenizer().save_pretrained(model)
    told = run(task(str(model), tmp_path), tmp_path)
    assert [entry["event"] for entry in told] == ["imported", "composed", "read"]
    assert told[1]["parts"]["weights"] > 10**13


def test_what_is_large_is_not_written_for_a_trial(
    tmp_path: Path, tiny_model_dir: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.recipes.estimating.trial.SAVED_BYTES", 1000)
    told = run({**task(tiny_model_dir(), tmp_path), "seconds": 0.1}, tmp_path)
    assert {entry["event"] for entry in told}.isdisjoint({"checkpoint", "saved"})
    assert not list(tmp_path.rglob("run-0/**/*.safetensors"))
    made = from_events(told, stage="s", method="sft", notes=())
    assert made.status == "estimated"
    assert any("time to write the model" in text for text in made.not_estimated)


def test_a_trial_leaves_the_run_alone(tmp_path: Path, tiny_model_dir: Callable[..., str]) -> None:
    asked = task(
        tiny_model_dir(), tmp_path, output_dir=str(tmp_path / "run"), report_to="tensorboard", save_steps=1,
        num_train_epochs=100, eval_dataset=write_rows(ROWS[:3], tmp_path / "held-out"), eval_strategy="epoch",
        load_best_model_at_end=True, save_strategy="epoch", max_grad_norm=0.5,
    )  # fmt: skip
    told = run({**asked, "seconds": 0.2}, tmp_path)
    events = [entry["event"] for entry in told]
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("*tfevents*"))
    # the trial's own rows: an evaluation and a checkpoint are asked for once some steps are over, and no sooner
    assert events[:5] == ["imported", "composed", "read", "trial", "begin"]
    assert 1 <= events.count("checkpoint") <= 2
    assert 1 <= events.count("evaluation") <= 2
    assert events.index("evaluation") > events.index("step") + 2
    assert events[-1] == "saved"
    steps = [entry for entry in told if entry["event"] == "step"]
    assert [entry["number"] for entry in steps] == list(range(1, len(steps) + 1))
    assert steps[0]["tokens"] == max(entry["tokens"] for entry in steps)
    read = told[2]
    assert (read["schedule"]["steps"], read["schedule"]["evaluations"]) == (500, 100)
