"""Two processes over gloo give the losses and gradient norms of one, to rounding, step after step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jobs
import pytest


def in_two(script, *arguments):
    """What the two processes print, once both have ended well."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone",
         str(Path(__file__).parent / script), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]


EVALUATED = ("kto", "bco", "offline")


@pytest.mark.parametrize(
    "method",
    [
        "sft", "dpo-lora", "grpo", "critic-lora", "offline",
        *(pytest.param(method, marks=pytest.mark.slow) for method in ("reward", "ppo", "kto", "bco")),
    ],
)  # fmt: skip
def test_two_processes_equal_one(tmp_path, method):
    """Thirteen rows, four a step: the last step of an epoch gives one process nothing to do."""
    (line,) = in_two("two_processes.py", method, tmp_path / "two")
    two = json.loads(line)
    evaluating = {"eval_strategy": "epoch"} if method in EVALUATED else {}
    one = jobs.main(method, tmp_path / "one", num_train_epochs=2, dropout=0.0, **evaluating)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-4)
    assert len(two["evaluated"]) == len(one["evaluated"]) == (2 if method in EVALUATED else 0)
    for theirs, ours in zip(two["evaluated"], one["evaluated"]):
        assert theirs == pytest.approx(ours, abs=1e-4)


TASKS = """
from posttrain.evaluation import Task

def make():
    rows = [{"prompt": f"What is {n} and {n}?"} for n in range(12)]
    return [Task(name="short", rows=rows, graders={"short": lambda row, text: len(text) < 20}, max_new_tokens=6)]
"""


def test_a_gate_decides_once_and_both_processes_take_what_it_promoted(tmp_path):
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "gate.yaml").write_text("retention: [{task: short, max_loss: 0.9}]\nmax_kl: 50\ntasks: tasks.py:make\n")
    first, second = sorted(in_two("two_gated.py", tmp_path))
    assert first.removeprefix("0 ") == second.removeprefix("1 ")
    decided = json.loads(first.removeprefix("0 "))
    assert decided["verdict"] == "promoted"
    assert decided["promoted"] is not None
    evaluated = sorted(path.name for path in (tmp_path / "run" / "evaluation").iterdir())
    assert evaluated == ["step-0", "step-2", "step-4"]
