"""`posttrain data distill`: failures are failures, nothing is asked twice, and what was asked is paid for once."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from tiny import build_tokenizer

from posttrain.cli.main import main
from posttrain.data.trees import sft_trees
from posttrain.models.loading import prepare_tokenizer

SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(text=lambda prompt, seed: f"{prompt} {seed % 7}") as started:
        yield started


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def card(path: str) -> dict[str, Any]:
    return json.loads(Path(f"{path}.card.json").read_text())


def asked(server: ChatServer) -> list[str]:
    return [body["messages"][-1]["content"] for body in server.bodies]


def test_answers_come_in_the_shape_of_the_prompts_with_where_they_are_from(server: ChatServer, here: Path) -> None:
    server.text = lambda prompt, seed: f" {prompt}!\n"
    prompts = write(here / "p.jsonl", [
        {"prompt": "a", "answer": "7"},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "old"}]},
        {"instruction": "c", "input": "d", "output": "old"},
    ])  # fmt: skip
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]
    assert main([*words, "--system_message", "Be kind.", "--seed=4", "--temperature=0.5"]) == 0
    first, second, third = lines("out.jsonl")
    answer = {"role": "assistant", "content": "a!"}
    assert first["prompt"] == [SYSTEM, {"role": "user", "content": "a"}]
    assert (first["completion"], first["answer"]) == ([answer], "7")
    assert second["messages"] == [SYSTEM, {"role": "user", "content": "b"}, {"role": "assistant", "content": "b!"}]
    assert third["prompt"][1]["content"] == "c\nd"
    notes = first["_provenance"]
    assert (notes["source"], notes["line"], notes["model"], notes["seed"]) == (prompts, 1, "tiny", 4)
    assert notes["sampling"]["temperature"] == 0.5
    assert notes["answer"] == {"number": 0, "finish_reason": "stop", "tokens": None}
    assert notes["passed"] == ["finished", "not empty", "distinct"]


def test_a_system_message_can_be_left_out_of_the_data(server: ChatServer, here: Path) -> None:
    own = {"prompt": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "b"}]}
    prompts = write(here / "p.jsonl", [{"prompt": "a"}, own])
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]
    assert main([*words, "--system_message", "Be kind.", "--keep_system", "false"]) == 0
    systems = {body["messages"][-1]["content"]: body["messages"][0]["content"] for body in server.bodies}
    assert systems == {"a": "Be kind.", "b": "Mine."}  # a row's own stays, asked and written
    assert [row["prompt"][0]["role"] for row in lines("out.jsonl")] == ["user", "system"]


def test_sft_reads_the_rows(server: ChatServer, here: Path) -> None:
    prompts = write(here / "p.jsonl", [{"prompt": "a", "answer": "7"}, {"prompt": "b", "answer": "8"}])
    main(["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"])
    tokenizer = build_tokenizer()
    prepare_tokenizer(tokenizer)
    trees = sft_trees("out.jsonl", tokenizer, max_length=None)
    assert trees.report.format == "prompt-completion"
    assert len(trees.trees) == 2


def test_what_cannot_be_used_is_rejected_with_the_reason(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.text = lambda prompt, seed: {"same": "x", "empty": " "}.get(prompt, f"{prompt} {seed}")
    prompts = write(
        here / "p.jsonl", ["{broken", {"prompt": [1, 2]}, {"x": 1}, {"prompt": "same"}, {"prompt": "empty"}]
    )
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]
    assert main([*words, "--count=2"]) == 0
    assert len(lines("out.jsonl")) == 1
    found = [(line["line"], line["step"]) for line in lines("out.jsonl.rejects.jsonl")]
    assert found == [(1, "read"), (2, "prompt"), (3, "prompt"), (4, "distinct"), (5, "not empty"), (5, "not empty")]
    steps = {step["name"]: (step["rows_in"], step["rows_out"]) for step in card("out.jsonl")["steps"]}
    assert steps == {
        "read": (5, 4), "prompt": (4, 2), "answer": (2, 2),
        "finished": (4, 4), "not empty": (4, 2), "distinct": (2, 1),
    }  # fmt: skip
    assert "hold no prompt" in lines("out.jsonl.rejects.jsonl")[2]["reason"]
    assert "out.jsonl" in capsys.readouterr().out


def test_an_unfinished_answer_is_kept_only_when_that_is_asked_for(
    here: Path, tiny_model_dir: Callable[..., str]
) -> None:
    prompts = write(here / "p.jsonl", [{"prompt": f"{n} + {n}"} for n in range(4)])
    words = ["data", "distill", prompts, "--model", tiny_model_dir(), "--max_tokens=3"]
    assert main([*words, "--output=out.jsonl"]) == (0 if lines("out.jsonl") else 2)  # 2 where no row is left
    cut = [line for line in lines("out.jsonl.rejects.jsonl") if line["step"] == "finished"]
    assert len(cut) >= 3  # a random model hardly ever stops within three tokens
    assert all(line["row"]["_provenance"]["answer"]["finish_reason"] == "length" for line in cut)
    assert main([*words, "--output=all.jsonl", "--keep_unfinished"]) == 0
    assert len(lines("all.jsonl")) == 4
    assert {row["_provenance"]["answer"]["tokens"] for row in lines("all.jsonl")} <= {1, 2, 3}
    spent = card("all.jsonl")["counts"]
    assert spent["completion tokens"] == sum(r["_provenance"]["answer"]["tokens"] for r in lines("all.jsonl"))
    assert spent["prompt tokens"] > 4


def test_a_prompt_too_long_for_the_model_is_rejected_and_the_others_answered(
    here: Path, tiny_model_dir: Callable[..., str]
) -> None:
    prompts = write(here / "p.jsonl", [{"prompt": "x " * 2000}, {"prompt": "2 + 3"}])
    words = ["data", "distill", prompts, "--model", tiny_model_dir(), "--max_tokens=3", "--keep_unfinished"]
    assert main([*words, "--output=out.jsonl"]) == 0
    ((one,), rejects) = lines("out.jsonl"), lines("out.jsonl.rejects.jsonl")
    assert one["_provenance"]["line"] == 2
    assert "too long" in rejects[0]["reason"]


def test_a_failed_prompt_is_a_failure_and_asked_again(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuse = lambda body: "this one is refused" if body["messages"][-1]["content"] == "q2" else None
    prompts = write(here / "p.jsonl", [{"prompt": f"q{n}"} for n in range(5)])
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]
    assert main(words) == 2
    assert "1 prompts failed" in capsys.readouterr().err
    assert [row["_provenance"]["line"] for row in lines("out.jsonl")] == [1, 2, 4, 5]
    (reject,) = lines("out.jsonl.rejects.jsonl")
    assert (reject["line"], reject["step"]) == (3, "answer")
    assert "this one is refused" in reject["reason"]
    before = len(server.bodies)
    server.refuse = lambda body: None
    assert main(words) == 0
    assert asked(server)[before:] == ["q2"]  # the failed one alone
    assert [row["_provenance"]["line"] for row in lines("out.jsonl")] == [1, 2, 3, 4, 5]
    assert lines("out.jsonl.rejects.jsonl") == []
    assert main(words) == 0  # nothing is left to do
    assert asked(server)[before + 1 :] == []


def test_costs_are_those_of_all_runs(server: ChatServer, here: Path) -> None:
    server.text = lambda prompt, seed: "12345678"  # 8 tokens as this server counts, and 5 of the prompt
    server.refuse = lambda body: "no" if body["messages"][-1]["content"] == "q1" else None
    prompts = write(here / "p.jsonl", [{"prompt": f"q{n}"} for n in range(3)])
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]
    words += ["--prompt_price=10", "--completion_price=100"]
    assert main(words) == 2
    server.refuse = lambda body: None
    assert main(words) == 0
    counts = card("out.jsonl")["counts"]
    assert (counts["prompt tokens"], counts["completion tokens"]) == (15, 24)
    assert counts["cost"] == (15 * 10 + 24 * 100) / 1e6
    assert counts["requests"] == 4


def test_killed_and_interrupted_it_goes_on_and_ends_the_same(server: ChatServer, here: Path) -> None:
    prompts = write(here / "p.jsonl", [{"prompt": f"q{n}"} for n in range(60)])
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--count=2", "--concurrency=4"]
    assert main([*words, "--output=whole.jsonl"]) == 0
    asked_once = len(server.bodies)
    assert asked_once == 60
    server.bodies.clear()
    server.delay_s = 0.03
    journal = here / "out.jsonl.answers.jsonl"
    for end in (signal.SIGKILL, signal.SIGINT):
        before = journal.stat().st_size if journal.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", "posttrain.cli", *words, "--output=out.jsonl"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not journal.exists() or journal.stat().st_size < before + 2000):
            time.sleep(0.01)
        process.send_signal(end)
        said = process.communicate(timeout=60)[1].decode()
        assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 130), said
        assert ("prompts are answered; the same command goes on" in said) == (end == signal.SIGINT)
        assert not (here / "out.jsonl").exists()
    server.delay_s = 0
    assert main([*words, "--output=out.jsonl"]) == 0
    assert (here / "out.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert len(server.bodies) <= asked_once + 2 * 4  # what was under way, and nothing else, is asked again
    assert not list(here.glob("out.jsonl.partial*"))


def test_settings_that_changed_are_refused(server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write(here / "p.jsonl", [{"prompt": "a"}])
    words = ["data", "distill", prompts, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]
    assert main(words) == 0
    assert main([*words, "--seed=2"]) == 2
    assert "seed (0, now 2)" in capsys.readouterr().err
    for file in here.glob("out.jsonl*"):
        if file.name != "out.jsonl.answers.jsonl":
            file.unlink()
    assert main([*words, "--seed=2"]) == 2
    assert "made with seed 0 (now 2)" in capsys.readouterr().err
    assert main([*words, "--distinct=false"]) == 0  # the same answers, written otherwise
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count=2", "--temperature=0"], "the same answer 2 times"),
        (["--prompt_price=1"], "go together"),
        (["--keep_system=false"], "only together with system_message"),
        (["--requests_per_minute=3"], "only together with endpoint"),
        (["--counts=2"], "unknown field 'counts'"),
    ],
)
def test_flags_that_do_not_go_together(
    more: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "distill", "p.jsonl", "--model=m", "--output=out.jsonl", *more]) == 2
    assert message in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_standard_input(server: ChatServer, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = io.BytesIO(b'{"prompt": "a"}\n{"prompt": "b"}\n')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(sent))
    assert main(["data", "distill", "-", "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl"]) == 0
    assert [row["_provenance"]["source"] for row in lines("out.jsonl")] == ["-", "-"]


def test_a_file_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "distill", "no.jsonl", "--model=m", "--output=out.jsonl"]) == 2
    assert "no.jsonl" in capsys.readouterr().err
    assert list(here.iterdir()) == []
