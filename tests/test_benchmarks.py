"""The benchmarks of sampling and GRPO: both sides do the work they are said to do, and it is counted as by hand."""

import dataclasses
import io
import json
import statistics
import sys

import pytest

from benchmarks import worker
from benchmarks.cases import MODELS, Case, Side, candidates, lengths, make_rows, ours
from benchmarks.interleave import DISCARDED, Measured
from benchmarks.limit import necessary_flops
from benchmarks.report import markdown, record

TINY = {
    "model_type": "qwen3", "vocab_size": 4096, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
CASE = Case(
    method="grpo", model="tiny", shape="short", rows_per_step=2, steps=DISCARDED + 1, generations=4, max_completion=6
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", TINY)


def reports(monkeypatch, case, side):
    """What a worker writes for this side when it is always told to go on."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\n" * (case.steps + 1)))
    (worker.generate if case.method == "generation" else worker.train)(case, side, worker.Baton(out))
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("method", ["grpo", "generation"])
def test_both_sides_sample_the_same_amount(monkeypatch, method):
    case = dataclasses.replace(CASE, method=method)
    peer = Side(name="transformers, 4 rows", package="transformers", settings={"rows": 4})
    if method == "grpo":
        peer = candidates(case)[0]
    measured = []
    for side in (ours(case), peer):
        ready, *steps, done = reports(monkeypatch, case, side)
        assert (ready["event"], done["event"], len(steps)) == ("ready", "done", case.steps)
        for step in steps:
            assert 40 <= step["tokens"] <= 48  # 2 x 4 completions of 6 tokens; one in 4,096 is an end
        timed = steps[DISCARDED:]
        measured.append(Measured(side=side, seconds=[s["seconds"] for s in timed], reports=timed, final=done))
    table = markdown(record(case, measured))
    assert "2 prompts x 4 a step" in table
    assert table.count("posttrain") == 1
    assert f"| {peer.name} |" in table
    if method == "grpo":
        norms = [statistics.median(m.final["grad_norms"]) for m in measured]
        assert norms[0] == pytest.approx(norms[1], rel=0.3)
        assert measured[0].final["entropies"] == pytest.approx(measured[1].final["entropies"], rel=0.01)


def test_the_work_is_counted_as_by_hand():
    case = dataclasses.replace(CASE, method="generation", rows_per_step=1, steps=1)
    prompt, completions = lengths(case, make_rows(case)[0])
    assert completions == [6, 6, 6, 6]
    # queries 16 + keys and values 8 + 8 + output 16, and three matrices of the MLP, times 16 inputs, in 2 layers
    weights = 2 * 16 * (16 + 8 + 8 + 16 + 3 * 32)
    attended = prompt * (prompt + 1) // 2 + 4 * (6 * prompt + 21)
    body, head = necessary_flops(case)
    assert body == [2 * weights * (prompt + 24) + 4 * 2 * 16 * attended]
    assert head == [2 * 16 * 4096 * 24]
    again, head_again = necessary_flops(dataclasses.replace(case, method="grpo"))
    assert (again[0], head_again[0]) == (4 * body[0], 4 * head[0])


def test_the_peers_settings_make_the_whole_step():
    case = dataclasses.replace(CASE, rows_per_step=16, generations=8)
    for side in candidates(case):
        settings = side.settings
        assert settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] == 128
        assert settings["gradient_accumulation_steps"] % settings.get("steps_per_generation", 1) == 0
