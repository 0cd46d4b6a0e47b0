"""Run and pipeline directories for the tests, as a training leaves them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HOSTILE = (
    "<script>document.title='broken'; fetch('http://127.0.0.1:9/script')</script>",
    "</bdi></div></main></body></html><script src='http://127.0.0.1:9/x.js'></script>",
    "<img src=x onerror=\"document.title='broken'\"><svg onload=\"document.title='broken'\"></svg>",
    "<style>@import url('http://127.0.0.1:9/x.css'); * { display: none }</style>",
    "<iframe src='http://127.0.0.1:9/frame'></iframe><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<a href=\"javascript:document.title='broken'\">here</a> {{ 7 * 7 }} {% raw %}",
    "</style><script>document.title='broken'</script>\" onmouseover=\"document.title='broken'\" x='",
    "\u202edlrow olleh\u2066 \u0000\u001b[31m \ud800 \u2028 &lt;b&gt; ]]> <!-- -->",
    "spam <b>" * 12_500,  # 100,000 characters
    "x" * 100_000,
)


def interval(estimate: float, low: float, high: float, n: int = 200) -> dict[str, Any]:
    return {"estimate": estimate, "low": low, "high": high, "n": n}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def record(row: int, grade: float | None, completion: str, *, task: str = "sums", sample: int = 1) -> dict[str, Any]:
    return {
        "task": task, "row": row, "sample": sample, "prompt": f"What is {row} plus 1?", "completion": completion,
        "grades": {} if grade is None else {"correct": grade}, "kind": None, "answer": f"{row + 1}.",
    }  # fmt: skip


def write_evaluation(
    directory: Path,
    right: Mapping[str, Sequence[bool]],
    *,
    say: Callable[[int, bool], str] = lambda row, good: f"It is {row + 1 if good else 0}.",
    drift: float | None = None,
) -> None:
    """An evaluation directory: for each task which rows were right."""
    scores = {}
    for task, marks in right.items():
        lines = [record(row, float(good), say(row, good), task=task) for row, good in enumerate(marks, start=1)]
        write_lines(directory / f"{task}.jsonl", lines)
        share = sum(marks) / len(marks)
        scores[task] = {"correct": interval(share, max(0, share - 0.1), min(1, share + 0.1), len(marks))}
    write_json(directory / "scores.json", scores)
    if drift is not None:
        one = {
            "kl_forward": interval(drift, drift * 0.8, drift * 1.2),
            "kl_reverse": interval(drift / 2, drift / 3, drift),
            "changed_greedy": interval(0.25, 0.15, 0.38), "entropy_before": 1.25, "entropy_after": 0.75,
            "length_before": 12.0, "length_after": 15.5, "texts": 50, "tokens": 600,
        }  # fmt: skip
        write_json(directory / "drift.json", {"prompts": one, "neutral": {**one, "length_before": None}})


def log(steps: int, **values: Callable[[int], float]) -> list[dict[str, Any]]:
    """Log lines of every tenth step."""
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return [{**{k: v(s) for k, v in named.items()}, "epoch": s / steps, "step": s} for s in range(10, steps + 1, 10)]


def write_run(directory: Path) -> Path:
    """An online run with everything there can be: three evaluated checkpoints, the last of which the gate refused."""
    lines = log(
        200, loss=lambda s: 1 / s, reward=lambda s: 0.2 + s / 400, kl=lambda s: s / 4000, grad_norm=lambda s: 1 + s % 3,
        learning_rate=lambda s: 1e-3 * (1 - s / 200), rewards__correct__mean=lambda s: 0.2 + s / 400,
        rewards__brief__mean=lambda s: 0.5, completions__mean_length=lambda s: 20 + s / 10,
        completions__max_length=lambda s: 60.0, entropy=lambda s: 50 / (s + 50), my__own=lambda s: float(s * s),
    )  # fmt: skip
    alarm = {"alarm": "entropy", "text": "The entropy fell to 0.2.", "stopped": False, "epoch": 0.9}
    end = {"train_runtime": 65.0, "train_loss": 0.5, "epoch": 1.0, "step": 200}
    write_lines(directory / "metrics.jsonl", [*lines, {**alarm, "step": 180}, {**alarm, "step": 190}, end])
    (directory / "config.yaml").write_text("learning_rate: 0.001\nseed: 3\nnum_generations: 4\nmax_steps: 200\n")
    samples = [
        {"step": step, "group": group, "row": 1, "prompt": [{"role": "user", "content": "What is 2 plus 3?"}],
         "completion": f"It is {5 if i % 2 else i}.", "rewards": {"correct": float(i % 2), "brief": 1.0},
         "reward": float(i % 2), "advantage": 1.0 if i % 2 else -1.0, "finish_reason": "stop"}
        for group, step in enumerate((1, 1, 100, 200)) for i in range(4)
    ]  # fmt: skip
    write_lines(directory / "samples.jsonl", samples)
    report = {
        "source": "sums.jsonl", "format": "prompt", "understood": "prompt as user", "trained": "the completions",
        "rows_read": 1200, "rows_kept": 1190, "truncated": 0, "tokens": 9000, "trained_tokens": 0,
        "dropped": {"longer than max_length": {"count": 10, "first": ["line 3", "line 8"]}},
        "lengths": {"50%": 12, "longest": 40}, "ignored_columns": ["id"], "notes": ["A note."],
        "example": "user: What is 1 plus 1?\nassistant: [[It is 2.]]",
    }  # fmt: skip
    write_json(directory / "data.json", report)
    environment = {
        "versions": {"python": "3.12.1", "torch": "2.9.0"}, "hardware": {"device": "cpu", "cores": 2}, "threads": 1,
        "start": "2026-11-23T18:00:00Z", "seconds": 65.0, "command": ["posttrain", "grpo", "--model", "my model"],
    }  # fmt: skip
    write_json(directory / "environment.json", environment)
    marks = {0: (60, 190), 100: (120, 186), 200: (130, 150)}
    for step, (target, kept) in marks.items():
        right = {"sums": [i < target for i in range(200)], "facts": [i >= 200 - kept for i in range(200)]}
        write_evaluation(directory / "evaluation" / f"step-{step}", right, drift=step / 2000 if step else None)
    write_json(directory / "gate.json", gate(directory))
    return directory


def gate(directory: Path) -> dict[str, Any]:
    def checkpoint(step: int, gain: float, loss: float, passed: bool) -> dict[str, Any]:
        return {
            "step": step, "path": str(directory / f"checkpoint-{step}"), "passed": passed,
            "targets": [{"task": "sums", "min_gain": 0.1, "gain": interval(gain, gain - 0.08, gain + 0.08),
                         "passed": True, "too_small": False, "n": 200, "needed": 60}],
            "retention": [{"task": "facts", "max_loss": 0.05, "loss": interval(loss, loss - 0.02, loss + 0.02),
                           "passed": passed, "too_small": not passed, "n": 200, "needed": 400}],
            "kl": step / 2000, "max_kl": 0.2, "kl_passed": True,
        }  # fmt: skip

    return {
        "status": 3, "verdict": "earlier", "promoted": str(directory / "checkpoint-100"),
        "sentence": "Step 100 is promoted: it gained 30 points on sums; step 200 lost 20 points on facts.",
        "checkpoints": [checkpoint(100, 0.3, 0.02, True), checkpoint(200, 0.35, 0.2, False)],
    }  # fmt: skip


def write_stage(directory: Path, method: str, *, status: str = "finished", **summary: Any) -> None:
    write_json(
        directory / "stage.json",
        {"status": status, "key": {"method": method, "fields": "", "inputs": {}}, "summary": summary, "time_s": 12.5,
         "outputs": {"model": str(directory / "model")}},
    )  # fmt: skip


def write_pipeline(directory: Path, right: Mapping[str, Mapping[str, Sequence[bool]]] | None = None) -> Path:
    """A pipeline: a base model, SFT, DPO, and an evaluation of each."""
    if right is None:
        right = {
            "base": {"sums": [False] * 100, "facts": [i < 80 for i in range(100)]},
            "sft": {"sums": [i < 70 for i in range(100)], "facts": [i < 80 for i in range(100)]},
            "dpo": {"sums": [i < 72 for i in range(100)], "facts": [10 <= i < 79 for i in range(100)]},
        }
    for name, marks in right.items():
        if name != "base":
            values = {"rewards/margins": lambda s: s / 50} if name == "dpo" else {}
            lines = log(100, loss=lambda s: 2 / s, grad_norm=lambda s: 1.0 + s / 100, **values)
            write_lines(directory / name / "metrics.jsonl", [*lines, {"train_runtime": 9.0, "step": 100}])
            (directory / name / "config.yaml").write_text("learning_rate: 0.001\nseed: 0\n")
            write_stage(directory / name, name, steps=100, loss=0.25)
        write_evaluation(directory / f"{name}_scores", marks)
        write_stage(directory / f"{name}_scores", "evaluate", sums={"correct": interval(0.5, 0.4, 0.6)})
    order = [stage for name in right for stage in ([name] if name != "base" else []) + [f"{name}_scores"]]
    stages = "".join(f"  - name: {name}\n" for name in order)
    (directory / "recipe.yaml").write_text(f"name: sums\nstages:\n{stages}")
    return directory
