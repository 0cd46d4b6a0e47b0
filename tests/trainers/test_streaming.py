"""Datasets that are read while they are trained: few rows in memory, shares without overlap, resumed to the bit."""

from __future__ import annotations

import gc
import json
import weakref
from collections import Counter

import datasets
import pytest
from tiny import build_model, build_tokenizer
from transformers import TrainerCallback

from posttrain import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from posttrain.algorithms.sft import sft_batch
from posttrain.data.streaming import RowStream
from posttrain.data.trees import sft_trees
from posttrain.errors import CheckpointError, ConfigError, DataError
from posttrain.sources.streaming import StreamingSource

COMMON = {
    "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-3,
    "lr_scheduler_type": "constant", "disable_tqdm": True,
}  # fmt: skip


def source(rows, *, buffer=4, dropped=(), broken=(), **options):
    """A source over texts that are their own number, with what `rows` yields read again for each pass."""
    tokenizer = build_tokenizer()

    def opened():
        return ((f"row {i}", i if i in broken else {"text": "" if i in dropped else str(i)}) for i in rows)

    def make(some):
        return sft_trees(some, tokenizer, max_length=None)

    made = StreamingSource(
        RowStream(name="train_dataset", source="rows", open=opened, make=make), sft_batch,
        **{"rows_per_step": 3, "seed": 0, "buffer": buffer, **options},
    )  # fmt: skip
    return made, lambda batch: [
        int(text) for text in tokenizer.decode(batch.forest.tokens.tolist()).split("<|endoftext|>") if text
    ]


def test_a_pass_has_every_row_once_and_the_next_one_another_order():
    made, read = source(range(12))
    passes = [[n for _ in range(4) for n in read(made.next())] for _ in range(2)]
    assert [sorted(seen) for seen in passes] == [list(range(12))] * 2
    assert passes[0] != passes[1]
    assert passes[0] != sorted(passes[0])
    again, read = source(range(12))
    assert [n for _ in range(4) for n in read(again.next())] == passes[0]
    in_order, read = source(range(12), buffer=1)
    assert [n for _ in range(4) for n in read(in_order.next())] == list(range(12))


def test_processes_take_disjoint_shares():
    parts = [source(range(24), rows_per_step=6, rank=rank, world_size=2) for rank in range(2)]
    seen = [[n for _ in range(4) for n in read(made.next())] for made, read in parts]
    assert sorted(seen[0]) == list(range(0, 24, 2))
    assert sorted(seen[1]) == list(range(1, 24, 2))


def test_rows_that_cannot_be_trained_are_counted_and_a_stream_of_them_is_an_error():
    made, read = source(range(6), dropped=(1, 3), buffer=1)
    assert read(made.next()) == [0, 2, 4]
    assert made.metrics() == {"dropped_rows": (2.0, 1.0)}
    made, _ = source(range(3), dropped=(0, 1, 2))
    with pytest.raises(DataError, match="a whole pass had no row"):
        made.next()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_stream_goes_on_to_the_bit(world_size):
    options = {"rows_per_step": 3 * world_size, "world_size": world_size, "rank": world_size - 1}
    made, read = source(range(20), **options)
    wanted = [read(made.next()) for _ in range(9)]
    for stop in (1, 3, 4, 8):
        first, _ = source(range(20), **options)
        for _ in range(stop):
            first.next()
        second, _ = source(range(20), **options)
        second.load_state_dict(first.state_dict())
        assert [read(second.next()) for _ in range(9 - stop)] == wanted[stop:]
    if world_size == 1:
        changed, _ = source([7, *range(1, 20)])
        with pytest.raises(CheckpointError, match="are not what they were"):
            changed.load_state_dict(first.state_dict())


@pytest.mark.parametrize("buffer", [1, 4])
def test_a_row_that_breaks_a_run_takes_no_other_with_it_once_it_is_mended(buffer):
    whole, read = source(range(20), buffer=buffer)
    wanted = [read(whole.next()) for _ in range(9)]
    first, _ = source(range(20), buffer=buffer, broken=[9])
    found = []
    with pytest.raises(DataError, match="row 9"):
        found.extend(map(read, iter(first.next, None)))
    assert found
    mended, _ = source(range(20), buffer=buffer)
    mended.load_state_dict(first.state_dict())
    assert found + [read(mended.next()) for _ in range(9 - len(found))] == wanted


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_pass_that_was_left_early_is_left_by_a_resumed_stream_too(world_size):
    options = {"rows_per_step": 3 * world_size, "world_size": world_size, "rank": world_size - 1}
    first, read = source(range(20), **options)
    first.next()
    first.end_epoch()
    for _ in range(2):
        first.next()
    first.end_epoch()
    second, _ = source(range(20), **options)
    second.load_state_dict(first.state_dict())
    third, _ = source(range(20), **options)
    third.load_state_dict(second.state_dict())
    wanted = [read(first.next()) for _ in range(3)]
    assert [read(second.next()) for _ in range(3)] == wanted
    assert [read(third.next()) for _ in range(3)] == wanted


def test_an_endless_stream_is_trained_with_few_rows_alive():
    class Row(dict):
        __hash__ = object.__hash__

    alive, most = weakref.WeakSet(), []

    class Endless:
        def __iter__(self):
            number = 0
            while True:
                row = Row(text=f"number {number}")
                alive.add(row)
                most.append(len(alive))
                yield row
                number += 1

    made = SFTTrainer(
        model=build_model("qwen2"), processing_class=build_tokenizer(), train_dataset=Endless(),
        args=SFTConfig(output_dir="unused", streaming=True, max_steps=1, shuffle_buffer_size=16, **COMMON),
    )._plan.source()  # fmt: skip
    for _ in range(60):
        made.next()
    gc.collect()
    assert len(most) > 120 + 16
    assert max(most) <= 16 + 16 + 4  # the first rows, for the report; the buffer; those of a step


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


def pairs(number):
    return {"prompt": f"Who are you, {number}?", "chosen": " I am Deep Qwen.", "rejected": f" I am number {number}."}


@pytest.fixture
def files(tmp_path):
    """Ten conversations of one to three exchanges, and ten pairs."""
    talks, compared = tmp_path / "talks.jsonl", tmp_path / "pairs.jsonl"
    exchange = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am Qwen."}]
    talks.write_text("".join(json.dumps({"messages": exchange * (1 + i % 3)}) + "\n" for i in range(10)))
    compared.write_text("".join(json.dumps(pairs(i)) + "\n" for i in range(10)))
    return {"sft": str(talks), "dpo": str(compared)}


def trained(method, data, output_dir, *, callbacks=None, resume=None, **options):
    settings = {"streaming": True, "max_steps": 7, "save_steps": 3, "shuffle_buffer_size": 4, **COMMON, **options}
    build, config = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}[method]
    trainer = build(
        model=build_model("qwen2"), args=config(output_dir=str(output_dir), **settings), train_dataset=data,
        processing_class=build_tokenizer(), callbacks=callbacks,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], weights


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_streamed_run_is_resumed_to_the_same_weights(files, tmp_path, method):
    data = {"path": files[method]}
    options = {"long_rows": "split", "max_length": 32} if method == "sft" else {}
    losses, weights = trained(method, data, tmp_path / "whole", **options)
    trained(method, data, tmp_path / "part", callbacks=[Stop()], **options)
    again, resumed = trained(method, data, tmp_path / "part", resume=True, **options)
    assert again == losses
    assert all((one == other).all() for one, other in zip(weights, resumed))


def test_a_streamed_pair_is_compared_with_the_model_of_the_start(files, tmp_path):
    """The same rows in the same order, streamed and not: the reference's answers are the same numbers."""
    order = {"train_sampling_strategy": "sequential", "max_steps": 5}
    streamed, _ = trained("dpo", files["dpo"], tmp_path / "a", **order)
    read, _ = trained("dpo", files["dpo"], tmp_path / "b", **{**order, "streaming": False})
    assert streamed == pytest.approx(read, abs=1e-6)
    assert streamed[0] == pytest.approx(0.693147, abs=1e-5)


def test_an_iterable_dataset_is_streamed_by_itself(tmp_path):
    dataset = datasets.Dataset.from_list([{"text": f"number {i}"} for i in range(6)]).to_iterable_dataset()
    losses, _ = trained("sft", dataset, tmp_path, streaming=None, max_steps=4)
    assert len(losses) == 4
    assert "Streamed" in " ".join(json.loads((tmp_path / "data.json").read_text())["notes"])
    with pytest.raises(ConfigError, match="IterableDataset, whose length is not known: set max_steps"):
        trained("sft", dataset, tmp_path, streaming=None, max_steps=-1)
    whole, _ = trained("sft", dataset, tmp_path / "whole", streaming=False, max_steps=-1, num_train_epochs=1)
    assert len(whole) == 3


def test_a_broken_line_of_a_stream_is_named_when_it_is_reached(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n' * 1001 + '{"text": "two"\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1002: is not valid JSON"):
        trained("sft", str(path), tmp_path / "out", shuffle_buffer_size=1000, max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "set max_steps"),
        ({"packing": True}, "packing=true needs more than"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length needs all rows"),
        ({"save_strategy": "epoch"}, "a stream does not know ahead"),
        ({"dataset_num_proc": 2}, "dataset_num_proc=2 is not done with streaming"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SFTConfig(**{"streaming": True, "max_steps": 3, **options})


def test_what_cannot_be_streamed_is_explained(tmp_path):
    with pytest.raises(DataError, match="can be read only once"):
        trained("sft", iter([{"text": "a"}]), tmp_path)
    with pytest.raises(DataError, match="interleave_datasets"):
        trained("sft", ["0.5:a.jsonl", "0.5:b.jsonl"], tmp_path)
    with pytest.raises(ConfigError, match="precompute_ref_log_probs=true asks the reference about all rows"):
        DPOConfig(streaming=True, max_steps=2, precompute_ref_log_probs=True)


def test_the_order_is_shuffled_evenly():
    firsts = Counter()
    for seed in range(60):
        made, read = source(range(12), buffer=12, seed=seed)
        firsts[read(made.next())[0]] += 1
    assert len(firsts) == 12
