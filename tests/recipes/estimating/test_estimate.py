"""From a trial's events to a stage's time, memory and disk, on numbers that one can follow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from posttrain.recipes.estimating.advice import advice
from posttrain.recipes.estimating.estimate import StageEstimate, from_events, pace
from posttrain.recipes.estimating.text import lines, spell

MIB = 2**20


def step(number: int, seconds: float, tokens: int, *, update: float = 0.0, peak: int = 900) -> dict[str, Any]:
    return {
        "event": "step", "number": number, "source": 0.0, "step": seconds, "optimizer": update, "tokens": tokens,
        "peak": peak * MIB, "gpu_peak": 0,
    }  # fmt: skip


def plan(**changes: Any) -> dict[str, Any]:
    told = {
        "steps": 100, "cycle": 1, "units": 8, "total": 800.0, "evaluations": 2, "checkpoints": 3, "kept": 2,
        "sampled": False,
    }  # fmt: skip
    return {**told, **changes}


def trial(**changes: Any) -> dict[str, Any]:
    told = {
        "event": "trial", "batch": 8, "cycle": 1, "whole": True, "sampled": False, "rows": 40, "tokens": 4000,
        "judged_units": 10, "judged_tokens": 1000, "skipped": 2,
    }  # fmt: skip
    return {**told, **changes}


def told(*steps: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """What a trial of 100 tokens a row tells."""
    parts = {"weights": 100 * MIB, "gradients": 100 * MIB, "optimizer": 200 * MIB, "reference": 0}
    return [
        {"event": "imported", "seconds": 5.0, "resident": 400 * MIB},
        {
            "event": "composed", "parts": parts, "available": 2000 * MIB, "device": "cpu", "model_file": 100 * MIB,
            "checkpoint": 300 * MIB, "parameters": 10, "trained": 10,
        },
        {
            "event": "read", "seconds": 1.0, "rows": 800, "share": 1.0, "units": 800, "tokens": 80_000.0, "mean": 100.0,
            "bytes": 50 * MIB, "evaluated_units": 40, "evaluated_tokens": 4000.0,
            "schedule": plan(**changes.get("plan", {})),
        },
        trial(**changes.get("trial", {})),
        {
            "event": "begin", "seconds": 3.0, "resident": 550 * MIB,
            "uses": {"max_tokens_per_pass": 1024, "dtype": "float32", "gradient_checkpointing": False},
        },
        *steps,
        {"event": "evaluation", "seconds": 0.5},
        {"event": "checkpoint", "seconds": 0.5, "bytes": 310 * MIB},
        {"event": "checkpoint", "seconds": 0.2, "bytes": 310 * MIB},
        {"event": "trained", "at": 10.0, "peak": 900 * MIB, "gpu_peak": 0},
        {
            "event": "saved", "at": 10.4, "bytes": 101 * MIB, "reference": changes.get("reference", False),
            "peak": 900 * MIB, "gpu_peak": 0,
        },
    ]  # fmt: skip


SEEN = [step(1, 3.0, 800), step(2, 2.0, 800), *(step(n, 1.1, 800, update=0.1) for n in range(3, 7))]


def test_time_is_that_of_tokens_and_updates() -> None:
    made = from_events(told(*SEEN), stage="s", method="sft", notes=())
    # 1 second for 800 tokens; 80,000 tokens; 100 updates of 0.1 s; the first two steps took 1.9 and 0.9 s more
    assert made.seconds["steps"] == pytest.approx(100.0 + 10.0 + 1.9 + 0.9)
    # 4,000 tokens where 1,000 took half a second, twice; three checkpoints, the first of them slow
    assert made.seconds["evaluation"] == pytest.approx(2 * 0.5 * 4)
    assert made.seconds["checkpoints"] == pytest.approx(0.9)
    assert made.seconds["saving"] == pytest.approx(0.4)
    assert made.time is not None
    assert made.time.estimate == pytest.approx(sum(made.seconds.values()))
    assert made.time.low == pytest.approx(0.85 * made.time.estimate)
    assert made.tokens == 80_000


def test_a_reference_asks_about_every_row_once() -> None:
    made = from_events(told(*SEEN, reference=True), stage="s", method="dpo", notes=())
    # 0.5 ms a token: 84,000 tokens; the trial's own 5,000 are taken from the loading
    assert made.seconds["reference"] == pytest.approx(42.0)
    assert made.seconds["loading"] == pytest.approx(0.5)


def test_memory_is_the_peak_with_its_parts() -> None:
    made = from_events(told(*SEEN), stage="s", method="sft", notes=())
    assert made.memory is not None
    assert made.memory.estimate == 900 * MIB
    # 550 - 100 before training; 900 - 450 - 400 beyond what is held
    assert made.parts["program and data"] == 450 * MIB
    assert made.parts["activations and buffers"] == 50 * MIB
    assert made.fits
    # what the process had when it asked for what is free is its own
    assert made.available == 2400 * MIB


def test_a_pass_that_the_trial_did_not_fill_is_added() -> None:
    small = [replace_tokens(entry, 256) for entry in SEEN]
    made = from_events(told(*small, trial={"whole": False, "batch": 2}), stage="s", method="sft", notes=())
    # 50 MiB at 256 tokens; a step of the run has 800
    assert made.parts["activations and buffers"] == pytest.approx(50 * MIB * 800 / 256)
    assert made.memory is not None
    assert made.memory.high > 1.1 * made.memory.estimate


def replace_tokens(entry: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {**entry, "tokens": tokens}


def test_memory_that_still_grows_goes_on_with_the_logarithm() -> None:
    growing = [step(n, 1.0, 800, peak=800 + 20 * n) for n in range(1, 9)]
    made = from_events(told(*growing), stage="s", method="sft", notes=())
    assert made.memory is not None
    # 80 MiB from step 4 to step 8; 100 steps are 3.64 doublings further
    assert made.memory.estimate / MIB == pytest.approx(900 + 80 * 3.6439, rel=1e-4)


def test_kernels_for_new_lengths_settle() -> None:
    growing = [step(n, 1.0, 800, peak=800 + 20 * n) for n in range(1, 9)]
    events = told(*growing)
    events[4]["uses"] |= {"bf16": True, "device": "cpu"}
    made = from_events(events, stage="s", method="sft", notes=())
    assert made.memory is not None
    # without the first two the last three steps added 60 MiB, the next three add exp(-3/45) = 0.9355 of it; 92 follow
    more = 60 * 0.9355 / (1 - 0.9355) * (1 - 0.9355 ** (92 / 3))
    assert made.memory.estimate / MIB == pytest.approx(900 + more, rel=1e-3)


def test_kernels_that_settle_sooner_are_seen_to() -> None:
    peaks = [800, 840, 860, 870, 880, 890, 900, 905, 910, 915, 920, 925]
    events = told(*(step(n + 1, 1.0, 800, peak=peak) for n, peak in enumerate(peaks)))
    events[4]["uses"] |= {"bf16": True, "device": "cpu"}
    made = from_events(events, stage="s", method="sft", notes=())
    assert made.memory is not None
    # without the first two 40 MiB in five steps and 25 in five: 0.625, and exp(-5/45) = 0.8948 would be expected
    shrinks = (0.625 * 0.8948) ** 0.5
    assert made.memory.estimate / MIB == pytest.approx(900 + 25 * shrinks / (1 - shrinks), rel=1e-3)


def test_rollouts_are_taken_whole() -> None:
    steps = [step(n, 5.0 if n % 2 else 1.0, 10) for n in range(1, 9)]
    made = pace(trial(cycle=2, sampled=True, skipped=2), steps, plan(cycle=2, sampled=True), 100.0)
    assert made.counted == 3
    assert made.seconds == pytest.approx(50 * 6.0)


def test_what_does_not_fit_is_not_tried() -> None:
    events = told()[:3]
    events[1]["available"] = 300 * MIB
    made = from_events(events, stage="s", method="sft", notes=())
    assert made.status == "by arithmetic"
    assert made.fits is False
    said = " ".join(advice(made, {"use_peft": False, "optim": "adamw_torch"}, free_disk=10**12))
    assert "use_peft=true" in said
    assert "300 MiB of gradients" in said
    assert "smaller batch size" in said
    json.loads(json.dumps(made.as_dict(), allow_nan=False))


def test_without_data_the_weights_are_still_counted() -> None:
    made = from_events([*told()[:2], {"event": "error", "text": "no file"}], stage="s", method="dpo", notes=())
    assert (made.status, made.why, made.steps) == ("by arithmetic", "no file", None)
    assert made.memory is not None
    assert made.memory.low == 400 * MIB
    assert "at least 400 MiB" in "\n".join(lines([made]))


def test_disk_that_is_too_small_is_said() -> None:
    made = from_events(told(*SEEN), stage="s", method="sft", notes=())
    assert made.disk["total"] == (2 * 310 + 101) * MIB
    assert advice(made, {}, free_disk=10**12) == ()
    assert "save_total_limit" in advice(made, {}, free_disk=100 * MIB)[0]


def test_a_model_that_is_stood_for_widens_what_it_writes() -> None:
    sampled = {"trial": {"sampled": True, "judged_units": 0, "judged_tokens": 0}, "plan": {"sampled": True}}
    sure = from_events(told(*SEEN, **sampled), stage="s", method="grpo", notes=())
    unsure = from_events(told(*SEEN, **sampled), stage="s", method="grpo", notes=("the model does not exist yet",))
    assert sure.time is not None
    assert unsure.time is not None
    assert unsure.time.high > 2 * sure.time.high
    assert any("does not exist yet" in text for text in unsure.not_estimated)


def test_an_error_of_the_trial_is_the_reason() -> None:
    events = [{"event": "error", "text": "chat.jsonl:3: no"}]
    made = from_events(events, stage="s", method="sft", notes=())
    assert (made.status, made.why) == ("not estimated", "chat.jsonl:3: no")


def test_the_lines_say_all_of_it() -> None:
    made = from_events(told(*SEEN), stage="first", method="sft", notes=())
    made = replace(made, disk={**made.disk, "free": 10**12})
    twice = "\n".join(lines([made, replace(made, stage="second")]))
    for word in (
        "first (sft)",
        "100 steps",
        "80,000 tokens",
        "900 MiB",
        "2 checkpoints of 310 MiB",
        "together: 4.2 min",
    ):
        assert word in twice
    missing = StageEstimate(stage="dpo", method="dpo", status="not estimated", why="there is no data")
    assert "dpo (dpo): not estimated: there is no data" in lines([missing])[0]
    assert [spell(s) for s in (1.25, 45, 600, 7200)] == ["1.2 s", "45 s", "10 min", "2.0 h"]
