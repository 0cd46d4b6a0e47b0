"""Drift at intervals, without a gate: measured on what is trained and on neutral text, and it changes nothing."""

import json

import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from posttrain.chat import CHATML
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.drift import neutral_texts
from posttrain.trainers.drifting import chosen_prompts, training_prompts
from posttrain.types import Segment

ROWS = [
    {"messages": [{"role": "user", "content": f"What is {a} + {b}?"}, {"role": "assistant", "content": "Paris."}]}
    for a in ("fox", "wolf", "pear", "apple")
    for b in ("story", "fruit")
]
SETTINGS = {
    "per_device_train_batch_size": 4, "learning_rate": 3e-3, "use_cpu": True, "bf16": False, "num_threads": 1,
    "max_steps": 4, "save_strategy": "no", "logging_steps": 1,
}  # fmt: skip


def sft(directory, data=ROWS, **options):
    config = SFTConfig(output_dir=str(directory), **SETTINGS | options)
    tokenizer = build_tokenizer(chat_template=CHATML)
    return SFTTrainer(model=build_model("qwen2"), args=config, train_dataset=data, processing_class=tokenizer)


def logged(trainer, name):
    return [(log["step"], log[name]) for log in trainer.state.log_history if name in log]


def test_drift_grows_from_the_start_and_measuring_changes_nothing(tmp_path):
    text = tmp_path / "neutral.txt"
    text.write_text("The quick brown fox.\n\nAnother story\nof two lines.\n")
    watched = sft(tmp_path / "watched", drift_steps=2, drift_text=str(text))
    watched.train()
    for name in ("drift/prompts/kl_reverse", "drift/neutral/kl_forward"):
        steps, values = zip(*logged(watched, name))
        assert steps == (2, 4)
        assert 0 < values[0] < values[1]
    assert [step for step, _ in logged(watched, "generation/clipped_ratio")] == [0, 2, 4]
    stored = json.loads((tmp_path / "watched" / "evaluation" / "step-4" / "drift.json").read_text())
    assert stored["neutral"]["texts"] == 2
    assert stored["prompts"]["kl_reverse"]["low"] < stored["prompts"]["kl_reverse"]["high"]
    alone = sft(tmp_path / "alone")
    alone.train()
    assert all(torch.equal(a, b) for a, b in zip(watched.model.parameters(), alone.model.parameters(), strict=True))


def test_every_training_measures_it(tmp_path):
    tokenizer = build_tokenizer(chat_template=CHATML)
    rejected = [{"role": "assistant", "content": "A story."}]
    pairs = [{"prompt": row["messages"][:1], "chosen": row["messages"][1:], "rejected": rejected} for row in ROWS]
    config = DPOConfig(output_dir=str(tmp_path / "dpo"), drift_steps=0.5, **SETTINGS)
    dpo = DPOTrainer(model=build_model("qwen2"), args=config, train_dataset=pairs, processing_class=tokenizer)
    prompts = [{"prompt": row["messages"][:1]} for row in ROWS]
    settings = SETTINGS | {"num_generations": 2, "max_completion_length": 8, "drift_steps": 0.5}
    grpo = GRPOTrainer(
        model=build_model("qwen2"), args=GRPOConfig(output_dir=str(tmp_path / "grpo"), **settings),
        reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        train_dataset=prompts, processing_class=tokenizer,
    )  # fmt: skip
    for trainer in (dpo, grpo):
        trainer.train()
        assert [step for step, _ in logged(trainer, "drift/prompts/kl_reverse")] == [2, 4]


def test_prompts_are_what_comes_before_the_first_trained_token():
    plain = Segment(tokens=[1, 2, 3, 4], trained=[(2, 4)])
    pair = Segment(tokens=[5, 6, 7], children=[Segment(tokens=[8, 9], trained=[(0, 2)])])
    text = Segment(tokens=[1, 2, 3], trained=[(1, 3)])  # nothing asks for an answer
    assert training_prompts([plain, pair, text]) == [[1, 2], [5, 6, 7]]
    assert chosen_prompts([[1] * 5, [1] * 70, [1] * 80], 100) == ([[1] * 5], 95)
    assert chosen_prompts([[1] * 5], None) == ([[1] * 5], 128)


def test_what_cannot_be_measured_is_said_before_training(tmp_path):
    with pytest.raises(ConfigError, match="nothing asks for an answer here; name a file of neutral text in drift_text"):
        sft(tmp_path, [{"text": "The quick brown fox."}], drift_steps=2).train()
    with pytest.raises(ConfigError, match="drift_text has an effect only together with drift_steps"):
        SFTConfig(drift_text="neutral.txt")
    with pytest.raises(DataError, match=r"no file or directory 'nowhere\.txt'"):
        sft(tmp_path, drift_steps=2, drift_text="nowhere.txt").train()
    (tmp_path / "rows.jsonl").write_text('{"text": "a story"}\n{"txt": "a fox"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: column 'text' must hold a text, found None"):
        neutral_texts(tmp_path / "rows.jsonl")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        neutral_texts(tmp_path / "empty.txt")
