"""The benchmark of PPO: every side takes its steps on the very same rollouts."""

import io
import json
import sys

import pytest

from benchmarks import ppo_step, worker
from benchmarks.cases import MODELS, Case
from benchmarks.interleave import DISCARDED

TINY = {
    "model_type": "qwen3", "vocab_size": 4096, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip


def test_all_sides_train_on_the_same_rollouts(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", TINY)
    case = Case(
        method="grpo", model="tiny", shape="short", rows_per_step=2, steps=DISCARDED + 1, generations=4,
        max_completion=6,
    )  # fmt: skip
    seen = []
    for side in ppo_step.sides(case):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.StringIO("go\n" * (case.steps + 1)))
        worker.train(case, side, worker.Baton(out))
        reports = [json.loads(line) for line in out.getvalue().splitlines()]
        seen.append([report["tokens"] for report in reports if report["event"] == "step"])
        assert reports[-1]["entropies"] == pytest.approx([8.3] * case.steps, abs=0.1)
    assert seen[0] == seen[1] == seen[2]
    assert set(ppo_step.LIMITS) == {side.name for side in ppo_step.sides(case)[1:]}
