"""`posttrain evaluate` and `posttrain compare` as a user starts them, on tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import ChatServer
from tiny import build_model, build_tokenizer

from posttrain.cli.main import main

TASKS = """tasks:
  - {name: ends, file: rows.jsonl, grader: mine.py:ends, max_new_tokens: 6}
  - {name: choose, file: choices.jsonl}
  - {name: read, file: texts.jsonl}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and tasks of every kind; "tuned" is another random model."""
    work = tmp_path_factory.mktemp("work")
    for name, seed in (("base", 0), ("tuned", 1)):
        build_model("qwen2", seed=seed).save_pretrained(work / name)
        build_tokenizer().save_pretrained(work / name)
    lines(work / "rows.jsonl", [{"prompt": f"{n} and {n}?"} for n in range(20)])
    lines(work / "choices.jsonl", [{"question": "Who?", "choices": ["a fox", "I"], "answer": n % 2} for n in range(8)])
    lines(work / "texts.jsonl", [{"text": "The red fox."}, {"text": "I am Qwen."}])
    (work / "mine.py").write_text("def ends(row, completion):\n    return sum(map(ord, completion)) % 2 == 0\n")
    (work / "tasks.yaml").write_text(TASKS)
    return work


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def here(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return work


def test_a_model_is_evaluated_and_the_same_command_reads_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "base", "--tasks", "tasks.yaml", "--output", "scores", "--use_cpu"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "bits_per_byte" in said
    assert "next: posttrain compare scores OTHER" in said
    scores = json.loads((here / "scores" / "scores.json").read_text())
    assert {task: list(graders) for task, graders in scores.items()} == {
        "ends": ["ends"],
        "choose": ["acc", "acc_norm"],
        "read": ["word_perplexity", "byte_perplexity", "bits_per_byte", "token_perplexity"],
    }
    names = sorted(path.name for path in (here / "scores").iterdir())
    assert names == ["choose.jsonl", "ends.jsonl", "read.jsonl", "scores.json", "tasks.json"]
    before = (here / "scores" / "ends.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert (here / "scores" / "ends.jsonl").stat().st_mtime_ns == before
    capsys.readouterr()
    assert main([*command, "--limit", "3"]) == 2
    assert "scores/ends.jsonl holds records made with rows 20 (now 3)" in capsys.readouterr().err


def test_two_models_are_compared_and_the_gate_decides(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "base", "tuned", "--tasks", "tasks.yaml", "--output", "cmp", "--use_cpu", "--flips", "1"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "drift on prompts: KL" in said
    assert "bits_per_byte" in said
    stored = json.loads((here / "cmp" / "comparison.json").read_text())
    assert (stored["before"], stored["after"], list(stored["tasks"])) == ("base", "tuned", ["ends", "choose", "read"])
    assert stored["drift"]["prompts"]["kl_reverse"]["estimate"] > 0
    ends = stored["tasks"]["ends"]
    before, after = (
        [r["grades"]["ends"] for r in read(here / "cmp" / side / "ends.jsonl")] for side in ("before", "after")
    )
    assert ends["gained"] == [row for row, (a, b) in enumerate(zip(before, after), start=1) if b > a]
    assert ends["lost"] == [row for row, (a, b) in enumerate(zip(before, after), start=1) if b < a]
    assert f"ends, gained {len(ends['gained'])}:" in said

    lost = "retention: [{task: ends, max_loss: 0.01}]\n"
    (here / "strict.yaml").write_text(lost + "max_kl: 0.001\ntasks: tasks.yaml\n")
    assert main(["compare", "cmp/before", "cmp/after", "--gate", "strict.yaml", "--output", "gated"]) == 4
    assert "Not promoted" in capsys.readouterr().out
    gate = json.loads((here / "gated" / "comparison.json").read_text())["gate"]
    assert (gate["status"], gate["verdict"], gate["promoted"]) == (4, "none", None)
    (here / "loose.yaml").write_text("max_kl: 100\n")
    assert main(["compare", "cmp/before", "cmp/after", "--gate", "loose.yaml", "--output", "gated"]) == 0
    assert "Promoted" in capsys.readouterr().out


def test_the_gates_own_tasks_are_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "gate.yaml").write_text(
        "retention: [{task: mine, max_loss: 0.99}]\ntasks:\n  - {name: mine, file: choices.jsonl}\n"
    )
    words = ["compare", "base", "base", "--gate", "gate.yaml", "--output", "own", "--use_cpu", "--no_drift"]
    assert main(words) == 0
    assert "drift" not in capsys.readouterr().out
    stored = json.loads((here / "own" / "comparison.json").read_text())
    assert stored["tasks"]["mine"]["difference"]["estimate"] == 0.0
    assert stored["gate"]["verdict"] == "promoted"


def test_a_model_behind_an_endpoint_is_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "answers.yaml").write_text("name: ends\nfile: rows.jsonl\ngrader: mine.py:ends\n")
    with ChatServer() as server:
        words = ["evaluate", "tiny", "--endpoint", server.url, "--output", "served", "--tasks"]
        assert main([*words, "tasks.yaml"]) == 2
        assert "task 'choose' needs log-likelihoods" in capsys.readouterr().err
        assert main([*words, "answers.yaml"]) == 0
    records = read(here / "served" / "ends.jsonl")
    assert [record["completion"].partition(" -> ")[0] for record in records] == [f"{n} and {n}?" for n in range(20)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "base"], "tasks is missing"),
        (["evaluate", "base", "--tasks", "tasks.yml"], "no file 'tasks.yml'; did you mean 'tasks.yaml'?"),
        (["evaluate", "missing", "--tasks", "identity,batery"], "unknown task 'batery'; did you mean 'battery'?"),
        (["evaluate", "base", "--tasks", "battery", "--output", "rows.jsonl"], "--output rows.jsonl is a file"),
        (
            ["evaluate", "base", "--tasks", "battery", "--concurrency", "2"],
            "concurrency has an effect only with endpoint",
        ),
        (["compare", "base", "tuned"], "which tasks? Name them with --tasks"),
        (["compare", "base", "tuned", "--gate", "gat.yaml"], "no file 'gat.yaml'"),
    ],
)
def test_mistakes_are_one_message(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_is_light(command: str) -> None:
    code = (
        f"import sys\nfrom posttrain.cli.main import main\nmain(['{command}', '--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'rich', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"posttrain {command}" in done.stdout


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
