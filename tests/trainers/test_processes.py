"""Two processes over gloo give the losses and gradient norms of one, to rounding, step after step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jobs
import pytest


@pytest.mark.parametrize("method", ["sft", "dpo-lora", "grpo"])
def test_two_processes_equal_one(tmp_path, method):
    """Thirteen rows, four a step: the last step of an epoch gives one process nothing to do."""
    script = Path(__file__).parent / "two_processes.py"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone",
         str(script), method, str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    two = json.loads(line.removeprefix("RESULT "))
    one = jobs.main(method, tmp_path / "one", num_train_epochs=2, dropout=0.0)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-4)
