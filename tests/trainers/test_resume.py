"""Killed and resumed equals uninterrupted, bit for bit: weights, losses, logs; full training and LoRA."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import jobs
import pytest
import torch

from posttrain.engine.checkpoint import checkpoints, load_state, save_checkpoint
from posttrain.errors import CheckpointError

QUICK = ["sft", "dpo-lora", "reward", "grpo", "ppo-lora", "critic", "offline"]
ALL = [f"{method}{kind}" for method in ("sft", "dpo", "reward", "grpo", "ppo", "critic", "offline", "kto", "bco")
       for kind in ("", "-lora")]  # fmt: skip
METHODS = [*QUICK, *(pytest.param(method, marks=pytest.mark.slow) for method in ALL if method not in QUICK)]


def run_job(method, output_dir, resume, answer):
    Path(output_dir).mkdir(exist_ok=True)
    with open(Path(output_dir) / "said.txt", "a") as said, contextlib.redirect_stdout(said):
        answer.put(jobs.main(method, output_dir, resume=resume))


@pytest.fixture(scope="module")
def context():
    """Children of a server that has imported everything once start in milliseconds."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        ["jobs", "posttrain.trainers.sft", "posttrain.trainers.dpo", "posttrain.trainers.grpo"]
    )
    return server


def start(context, method, output_dir, resume=False):
    answer = context.Queue()
    process = context.Process(target=run_job, args=(method, str(output_dir), resume, answer))
    process.start()
    return process, answer


def finish(process, answer):
    result = answer.get(timeout=240)
    process.join()
    return result


def wait_for_step(output_dir, step, process):
    """Until the run has logged this step. The file is read as a reader from outside would."""
    file = Path(output_dir) / "metrics.jsonl"
    for _ in range(24_000):
        if file.exists() and len(file.read_text().splitlines()) >= step:
            return
        assert process.is_alive(), "the run ended before it could be killed"
        time.sleep(0.002)
    raise AssertionError("the run made no progress")


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_points_and_resumed_ends_bit_equal(context, tmp_path, method):
    whole = finish(*start(context, method, tmp_path / "whole"))
    generator = random.Random(method)
    run, resume = tmp_path / "killed", False
    for _ in range(2):
        process, _ = start(context, method, run, resume)
        last = max((int(p.name.split("-")[1]) for p in run.glob("checkpoint-*")), default=0)
        wait_for_step(run, min(last + generator.randint(4, 6), 15), process)
        time.sleep(generator.random() * 0.02)
        process.kill()
        process.join()
        resume = True
    resumed = finish(*start(context, method, run, resume))
    assert len(resumed["losses"]) == 16
    assert resumed == whole
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, 17))


def test_two_runs_with_the_same_seed_are_bit_equal_and_another_seed_is_not(tmp_path):
    first = jobs.main("sft", tmp_path / "a", num_train_epochs=1)
    assert jobs.main("sft", tmp_path / "b", num_train_epochs=1) == first
    assert jobs.main("sft", tmp_path / "c", num_train_epochs=1, seed=1) != first


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(context, tmp_path):
    whole = finish(*start(context, "sft", tmp_path / "whole"))
    process, _ = start(context, "sft", tmp_path / "stopped")
    wait_for_step(tmp_path / "stopped", 4, process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert "resume_from_checkpoint=True" in (tmp_path / "stopped" / "said.txt").read_text()
    assert finish(*start(context, "sft", tmp_path / "stopped", resume=True)) == whole


def test_a_run_that_starts_anew_sets_the_earlier_one_aside(tmp_path):
    jobs.main("sft", tmp_path, num_train_epochs=1)
    jobs.main("sft", tmp_path, num_train_epochs=1)
    assert (tmp_path / "earlier-1" / "checkpoint-3").is_dir()
    assert (tmp_path / "earlier-1" / "metrics.jsonl").is_file()


def test_a_checkpoint_half_written_is_not_there(tmp_path):
    def crash(directory):
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 3, write_model=crash, state={}, log={}, keep=None)
    assert checkpoints(tmp_path) == []


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_checkpoint_that_carries_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"global_step": Payload()}, tmp_path / "training_state.pt")
    with pytest.raises(CheckpointError, match=r"training_state\.pt"):
        load_state(tmp_path)
    assert not Path("executed").exists()


def test_a_resumed_run_computes_in_the_precision_it_began_with(tmp_path, monkeypatch):
    import posttrain.engine.precision as room

    monkeypatch.setattr(room, "_time_layer", lambda device, dtype, size: 1.0 if dtype == torch.float32 else 0.1)
    jobs.main("dpo", tmp_path, num_train_epochs=1, bf16=None)
    monkeypatch.setattr(room, "_time_layer", lambda device, dtype, size: 1.0)
    resumed = jobs.trainer("dpo", tmp_path, num_train_epochs=1, bf16=None)
    assert resumed.args.bf16 is True
    assert resumed.train(resume_from_checkpoint=True).global_step == 4


def test_resuming_another_run_is_refused_by_what_differs(tmp_path):
    jobs.main("dpo", tmp_path / "dpo", num_train_epochs=1)
    jobs.main("sft", tmp_path / "sft", max_steps=4)

    def resume(method, **changes):
        jobs.trainer(method, tmp_path / method, **changes).train(resume_from_checkpoint=True)

    with pytest.raises(CheckpointError, match=r"learning_rate was 0\.001 and is 0\.01"):
        resume("dpo", num_train_epochs=1, learning_rate=0.01)
    with pytest.raises(CheckpointError, match="of 4 steps, this one has 16"):
        resume("dpo")
    with pytest.raises(CheckpointError, match="another rows per step"):
        resume("sft", max_steps=4, per_device_train_batch_size=4)
    with pytest.raises(CheckpointError, match="another training data"):
        resume("sft", max_steps=4, rows=[*jobs.CONVERSATIONS[1:], jobs.CONVERSATIONS[0]])
    with pytest.raises(CheckpointError, match="another reference model"):
        resume("dpo", num_train_epochs=1, ref_model=jobs.build_model("gpt2", seed=3))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        jobs.trainer("dpo", tmp_path / "nothing").train(resume_from_checkpoint=True)


def test_how_a_step_is_cut_may_change_and_is_said(tmp_path, capsys):
    whole = jobs.main("sft", tmp_path, max_steps=4, dropout=0.0)
    another = {"max_tokens_per_pass": 40, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    again = jobs.trainer("sft", tmp_path, max_steps=4, dropout=0.0, **another)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "max_tokens_per_pass was 80 and is 40" in capsys.readouterr().out
    losses = [log["loss"] for log in again.state.log_history if "loss" in log]
    assert losses == pytest.approx(whole["losses"], abs=1e-5)
