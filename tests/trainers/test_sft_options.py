"""Every option of supervised fine-tuning, seen in what a trainer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from posttrain import SFTConfig, SFTTrainer
from posttrain.errors import ConfigError

ROWS = [{"text": "red fox " * n} for n in (1, 6, 2, 5, 3, 4, 7, 1)]
TALK = {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "Qwen."}]}


@pytest.fixture
def sft(tmp_path: Path, tiny_model: Any, make_tokenizer: Any) -> Any:
    def make(rows: Any = ROWS, *, tokenizer: Any = None, eval_dataset: Any = None, **options: Any) -> Any:
        settings = {
            "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 2, "num_train_epochs": 1,
            "logging_steps": 1, "use_cpu": True, "bf16": False, "save_strategy": "no", "learning_rate": 1e-2, **options,
        }  # fmt: skip
        return SFTTrainer(
            model=tiny_model("qwen2"), args=SFTConfig(**settings), train_dataset=rows, eval_dataset=eval_dataset,
            processing_class=make_tokenizer() if tokenizer is None else tokenizer,
        )  # fmt: skip

    return make


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def sizes(trainer: Any) -> list[int]:
    """Tokens of each step of an epoch."""
    source = trainer._plan.source()
    return [len(source.next().forest.tokens) for _ in range(source.steps_per_epoch)]


def test_loss_type(sft: Any) -> None:
    nll, dft, old = (losses(sft(max_steps=1, loss_type=name))[0] for name in ("nll", "dft", "chunked_nll"))
    assert dft < 0.1 * nll  # a random model gives its tokens little, and the loss is scaled by that
    assert old == nll


def test_label_smoothing_factor(sft: Any) -> None:
    plain, smooth, more = (losses(sft(max_steps=1, label_smoothing_factor=x))[0] for x in (0.0, 0.2, 0.6))
    assert (more - plain) / (smooth - plain) == pytest.approx(3.0, rel=1e-3)  # linear in the factor
    trainer = sft(eval_dataset=ROWS, label_smoothing_factor=0.2)
    assert trainer.evaluate()["eval_loss"] != pytest.approx(sft(eval_dataset=ROWS).evaluate()["eval_loss"])


def test_neftune_noise_alpha(sft: Any) -> None:
    assert losses(sft(max_steps=1, neftune_noise_alpha=5))[0] != losses(sft(max_steps=1))[0]
    assert losses(sft(max_steps=1, neftune_noise_alpha=0))[0] == losses(sft(max_steps=1))[0]
    noisy = sft(eval_dataset=ROWS, neftune_noise_alpha=5).evaluate()["eval_loss"]
    assert noisy == sft(eval_dataset=ROWS).evaluate()["eval_loss"]


def test_packing(sft: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plain, packed = sft(), sft(packing=True, max_length=40)
    assert len(sizes(plain)) == 4  # 8 rows, 2 a step
    assert sum(sizes(packed)) == sum(sizes(plain))
    said = capsys.readouterr().out
    packs = len(sizes(packed))
    assert packs < 4
    assert "packs of at most 40 tokens" in said
    assert "Without padding: batches of 2 rows" in said
    assert len(losses(packed)) == packs
    # a step of one pack for each process is as many rows as fit
    assert max(sizes(sft(packing=True, max_length=40, per_device_train_batch_size=1))) <= 40


def test_packing_strategy(sft: Any) -> None:
    tokens = {name: sum(sizes(sft(packing=True, max_length=10, packing_strategy=name)))
              for name in ("bfd", "bfd_split", "wrapped")}  # fmt: skip
    whole = sum(sizes(sft()))
    # a piece of one token has nothing before it to be predicted from, and is left out
    assert tokens["bfd"] < whole - 8 < tokens["bfd_split"] <= tokens["wrapped"] == whole
    blocks = sft(packing=True, max_length=10, packing_strategy="wrapped", per_device_train_batch_size=1)
    assert set(sizes(blocks)) == {10, whole % 10}


def test_eval_packing(sft: Any) -> None:
    """Packs of whole rows have the loss of the rows; blocks show rows what stood before them."""

    def loss(**options: Any) -> float:
        return sft(eval_dataset=ROWS, max_length=60, **options).evaluate()["eval_loss"]

    alone = loss()
    assert loss(eval_packing=True) == pytest.approx(alone, rel=1e-5)
    assert loss(eval_packing=True, packing_strategy="wrapped") != pytest.approx(alone, rel=1e-3)
    assert loss(packing=True, eval_packing=False, packing_strategy="wrapped") == pytest.approx(alone, rel=1e-5)
    assert loss(packing=True, packing_strategy="wrapped") != pytest.approx(alone, rel=1e-3)


def test_padding_free(sft: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sft()
    assert "Without padding" not in capsys.readouterr().out
    sft(padding_free=True)
    lengths = [int(part) for part in sizes(sft(train_sampling_strategy="sequential", per_device_train_batch_size=1))]
    padded = sum(2 * max(pair) for pair in zip(lengths[::2], lengths[1::2]))
    assert f"would hold {padded - sum(lengths)} tokens more" in capsys.readouterr().out


def test_shuffle_dataset(sft: Any) -> None:
    steady = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 1}
    plain, shuffled = sizes(sft(**steady)), sizes(sft(shuffle_dataset=True, **steady))
    assert shuffled != plain
    assert sorted(shuffled) == sorted(plain)
    assert sizes(sft(shuffle_dataset=True, **steady)) == shuffled
    assert sizes(sft(shuffle_dataset=True, seed=1, **steady)) != shuffled


def test_dataset_num_proc(sft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.data import processes

    asked = []
    real = processes.in_processes
    monkeypatch.setattr("posttrain.data.trees.in_processes", lambda w, c, n: asked.append(n) or real(w, c, n))
    assert losses(sft(dataset_num_proc=2, max_steps=1)) == losses(sft(max_steps=1))
    assert asked == [2, 1]


def test_dataset_kwargs(sft: Any) -> None:
    ready = [{"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, 8, 9]}] * 2
    assert sizes(sft(ready, max_length=3)) == [6]
    assert sizes(sft(ready, max_length=3, dataset_kwargs={"skip_prepare_dataset": True})) == [10]


def test_eos_token(sft: Any, tmp_path: Path) -> None:
    trainer = sft([{"text": "red fox"}], eos_token="<|im_end|>", per_device_train_batch_size=1)
    source = trainer._plan.source()
    end = trainer.processing_class.convert_tokens_to_ids("<|im_end|>")
    assert int(source.next().forest.targets[-1]) == end
    trainer.save_model(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token == "<|im_end|>"
    assert end in trainer.model.generation_config.eos_token_id
    with pytest.raises(ConfigError, match="not in the tokenizer's vocabulary"):
        sft(eos_token="<nothing>")


def test_pad_token(sft: Any, tmp_path: Path) -> None:
    trainer = sft(pad_token="<|im_start|>")
    assert losses(trainer) == losses(sft())  # nothing is padded in training
    trainer.save_model(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token == "<|im_start|>"


def test_chat_template_path(sft: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m['role'] + '>' + m['content'] + eos_token }}{% endfor %}")
    for asked, written in (
        ("zephyr", "<|assistant|>\n[[Qwen.<|endoftext|>]]"),
        ("chatml", "assistant\n[[Qwen.<|im_end|>]]"),
        (str(file), "assistant>Qwen.<|endoftext|>]]"),
    ):
        trainer = sft([TALK], chat_template_path=asked)
        assert written in capsys.readouterr().out
        assert trainer.processing_class.chat_template
    with pytest.raises(ConfigError, match="did you mean 'chatml'"):
        sft([TALK], chat_template_path="chatlm")


def test_add_special_tokens_come_before_the_template_that_writes_them(sft: Any) -> None:
    tokens = ["<start_of_turn>", "<end_of_turn>"]
    trainer = sft([TALK], chat_template_path="gemma", add_special_tokens=tokens, eos_token="<end_of_turn>")
    assert trainer.processing_class.eos_token == "<end_of_turn>"
    assert trainer.data_report.render_marked(color=False).endswith("model\n[[Qwen.<end_of_turn>]]")


def test_how_rows_are_read_may_change_when_a_run_is_resumed(sft: Any) -> None:
    whole = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    first = losses(sft(**whole))
    again = sft(dataset_num_proc=2, padding_free=True, **whole)
    again.train(resume_from_checkpoint=f"{again.args.output_dir}/checkpoint-2")
    assert [entry["loss"] for entry in again.state.log_history if "loss" in entry] == first
