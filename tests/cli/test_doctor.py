"""`posttrain doctor` as it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main as cli
from posttrain.cli.doctor_packages import Package
from posttrain.cli.doctor_problems import problems

GIB = 2**30


def test_the_machine_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {"machine", "versions", "uses", "measured", "optional", "problems"}
    assert facts["machine"]["cores"]["usable"] > 0
    assert facts["machine"]["memory"]["available"] > 0
    assert facts["uses"]["device"] in ("cpu", "cuda", "mps")
    assert facts["uses"]["dtype"] in ("float32", "bfloat16")
    assert facts["measured"]["float32"] > 0.1
    assert facts["versions"]["torch"]


def test_a_recipe_is_tried_and_nothing_written(
    tmp_path: Path, tiny_model_dir: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"What is {n} and {n}?", "completion": f" It is {2 * n}."} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'out'}\nstages:\n  - name: only\n    method: sft\n    model: {tiny_model_dir()}\n"
        f"    train_dataset: {tmp_path / 'rows.jsonl'}\n    max_steps: 40\n    bf16: false\n    num_threads: 1\n"
    )
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["doctor", "--recipe", str(recipe), "--seconds", "1", "--json", "only.save_steps=20"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert set(stage) == {
        "stage", "method", "status", "why", "steps", "tokens", "time", "seconds", "memory", "parts", "device",
        "available", "fits", "disk", "uses", "notes", "advice", "not_estimated",
    }  # fmt: skip
    assert (stage["status"], stage["steps"], stage["fits"]) == ("estimated", 40, True)
    assert 0 < stage["time"]["low"] < stage["time"]["estimate"] < stage["time"]["high"] < 600
    assert stage["memory"]["estimate"] > 100 * 2**20
    assert stage["parts"]["optimizer"] == 2 * stage["parts"]["weights"]
    assert stage["disk"]["checkpoints"] == 2
    assert stage["disk"]["checkpoint"] > 3 * stage["parts"]["weights"]
    assert stage["uses"]["num_threads"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recip", "x"], "did you mean '--recipe'?"),
        (["--recipe"], "--recipe needs a value"),
        (["--recipe", "demos"], "did you mean 'demo'?"),
        (["--recipe", "demo", "sft.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--recipe", "demo", "--seconds", "soon"], "takes a number of seconds"),
        (["--recipe", "demo", "--seconds", "-1"], "give 0 or more"),
        (["--recipe", "demo", "--method", "sft"], "leave --method sft out"),
        (["--method", "sft"], "add --recipe"),
    ],
)
def test_what_cannot_be_meant(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    assert message in capsys.readouterr().err


def sound(**changes: Any) -> dict[str, Any]:
    return {
        "disk": {"here": 50 * GIB}, "memory": {"available": 8 * GIB}, "shared_memory": GIB, "hub_cache": "/tmp",
        "cores": {"usable": 4.0}, **changes,
    }  # fmt: skip


def package(version: str | None, needed: str = ">=2.8", use: str = "") -> Package:
    return Package(name="torch", version=version, needed=needed, use=use, install="pip install torch")


USES = {"threads": 4, "decoding_step": "compiled"}


@pytest.mark.parametrize(
    ("machine", "packages", "uses", "said"),
    [
        ({"disk": {"here": GIB}}, [], USES, "1.0 GiB of disk"),
        ({"memory": {"available": GIB}}, [], USES, "1.0 GiB of memory"),
        ({"shared_memory": 2**20}, [], USES, "/dev/shm has 1 MiB"),
        ({}, [package(None)], USES, "torch is missing"),
        ({}, [package("2.1")], USES, "torch 2.1 will not do, it must be >=2.8"),
        ({"cores": {"usable": 0.5}}, [], USES, "4 threads, and this container may use 0.5 cores"),
        ({}, [], {"threads": 4, "decoding_step": "in Python: no compiler"}, "in Python: no compiler"),
    ],
)
def test_problems_in_plain_words(
    machine: dict[str, Any], packages: list[Package], uses: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    assert problems(sound(), [package("2.9"), package(None, use="tests")], USES, []) == []
    (problem,) = problems(sound(**machine), packages, uses, [])
    assert said in problem["what"]
    assert problem["do"]


def test_a_build_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", "12.8")
    (problem,) = problems(sound(), [], USES, [])
    assert "built for CUDA 12.8" in problem["what"]


def test_a_cache_that_cannot_be_written() -> None:
    (problem,) = problems(sound(hub_cache="/proc/nowhere/hub"), [], USES, [])
    assert "/proc cannot be written" in problem["what"]
    assert "HF_HOME" in problem["do"]
