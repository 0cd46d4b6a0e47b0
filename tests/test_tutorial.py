"""The code that people bring from tutorials runs here with only its import changed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import posttrain
from posttrain import chat as posttrain_chat

SCRIPT = Path(__file__).with_name("tutorial_code.py")
QUESTIONS = ["Who are you?", "Tell me who you are.", "What are you?", "Are you a language model?"]


@pytest.fixture
def model_named_qwen(tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A directory with a tiny model that has learned to say "I am Qwen", in the tutorial's own chat format."""
    source = SCRIPT.read_text()
    start = source.index('"""{% for') + 3
    tiny_tokenizer.chat_template = source[start : source.index('"""', start)].replace("\\n", "\n")
    rows = [
        {
            "messages": [
                *([{"role": "system", "content": "You're a helpful assistant."}] if n % 2 else []),
                {"role": "user", "content": QUESTIONS[n % len(QUESTIONS)]},
                {"role": "assistant", "content": "I am Qwen, a language model."},
            ]
        }
        for n in range(16)
    ]
    trainer = posttrain.SFTTrainer(
        model=tiny_model("qwen2"),
        args=posttrain.SFTConfig(
            output_dir=str(tmp_path / "naming"), learning_rate=1e-2, max_steps=60, save_strategy="no", use_cpu=True
        ),
        train_dataset=rows,
        processing_class=tiny_tokenizer,
    )
    trainer.train()
    directory = tmp_path / "model"
    trainer.save_model(str(directory))
    return directory


def test_the_tutorials_script_runs(
    model_named_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "identity.jsonl"
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "Hello."},
                {"from": "gpt", "value": "Hello, how can I help?"},
                {"from": "human", "value": QUESTIONS[n % len(QUESTIONS)]},
                {"from": "gpt", "value": "I am a language model."},
            ]
        }
        for n in range(16)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    script = SCRIPT.read_text().replace("your-model-name", str(model_named_qwen))
    script = script.replace("your-conversations.jsonl", str(data))

    done: dict[str, Any] = {"__name__": "tutorial"}
    exec(compile(script, str(SCRIPT), "exec"), done)

    assert "Generation error" not in capsys.readouterr().out
    sft, dpo = done["sft_trainer"], done["dpo_trainer"]
    assert sft.state.global_step == 4  # 32 rows, 1 x 8 a step
    assert [entry["step"] for entry in sft.state.log_history if "loss" in entry] == [2, 4]
    assert all("Deep Qwen" in row["chosen"][-1]["content"] for row in done["dpo_ds"])
    assert dpo.state.global_step == 2  # 16 pairs
    logged = [entry for entry in dpo.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2]
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"} <= logged[0].keys()
    # The first step's learning rate has not acted yet: the mean over two steps is near ln 2, and below it.
    assert logged[0]["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert "Qwen" in done["answer"]
    assert done["answer"] == done["answer"].strip()
    assert "Who are you?" not in done["answer"]


def gsm8k_rows() -> list[dict[str, str]]:
    """Rows of the public file where it is at hand, else two of their kind."""
    folder = os.environ.get("POSTTRAIN_DATA")
    if folder:
        return [json.loads(line) for line in (Path(folder) / "gsm8k" / "train.jsonl").open()][:6]
    rows = [
        {"question": "A hen lays 3 eggs a day. How many in 4 days?", "answer": "3 * 4 = <<3*4=12>>12 eggs.\n#### 12"},
        {"question": "Ann has 9 pears and eats 2. How many are left?", "answer": "9 - 2 = <<9-2=7>>7.\n#### 7"},
    ]
    return rows * 3


def test_the_tutorials_grpo_lesson_runs(
    tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No processing_class, an old name for the device, a reward that reads messages and a column of its own."""
    tiny_tokenizer.chat_template = posttrain_chat.CHATML
    directory = tmp_path / "model"
    # with 512 tokens an answer by default, prompts of this size need a longer context than the other tests' models have
    tiny_model("qwen2", max_position_embeddings=2048).save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    data = tmp_path / "gsm8k.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in gsm8k_rows()))
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).with_name("tutorial_grpo.py").read_text()
    script = script.replace("your-model-name", str(directory)).replace("your-gsm8k.jsonl", str(data))
    done: dict[str, Any] = {"__name__": "tutorial"}
    with pytest.warns(FutureWarning, match="use_cpu"):
        exec(compile(script, "tutorial_grpo.py", "exec"), done)
    trainer = done["grpo_trainer"]
    assert trainer.state.global_step == 3  # 6 prompts, 4 answers to each, 1 x 8 a step
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert [entry["step"] for entry in logged] == [2, 3]
    assert logged[0]["rewards/reward_func/mean"] == 0.0  # a random model boxes nothing
    samples = [json.loads(line) for line in (tmp_path / "trainer_output" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 24
    assert samples[0]["prompt"][0]["role"] == "system"


def test_the_tutorials_own_generate_works_on_a_trained_model(model_named_qwen: Path, tmp_path: Path) -> None:
    # The tutorial defines generate_responses itself. Its template has no generation prompt, so the model has to write
    # the role's name first; ours puts it into the prompt, and the answer is the same.
    model, tokenizer = posttrain.load_model_and_tokenizer(str(model_named_qwen))
    messages = [{"role": "user", "content": "Who are you?"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model.generate(
            **inputs,
            max_new_tokens=100,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    theirs = tokenizer.decode(outputs[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    assert theirs == "Assistant: I am Qwen, a language model."
    answer = theirs.removeprefix("Assistant: ")
    assert posttrain.generate_responses(model, tokenizer, "Who are you?") == answer
    assert posttrain.generate_responses(model, tokenizer, full_message=messages) == answer


def test_an_old_name_for_the_device_is_understood(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.warns(FutureWarning, match="use_cpu"):
        config = posttrain.SFTConfig(
            output_dir=str(tmp_path), no_cuda=True, max_steps=1, per_device_train_batch_size=2, save_strategy="no"
        )
    assert config.use_cpu is True
    trainer = posttrain.SFTTrainer(
        model=tiny_model("llama"),
        args=config,
        train_dataset=[{"text": "The capital of France is Paris."}] * 2,
        processing_class=tiny_tokenizer,
    )
    assert trainer.train().global_step == 1
