"""One reward on the completions in a file."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import grade, main
from posttrain.rewards.names import REWARDS

ROWS = [
    {"prompt": "3 + 4?", "completion": "It is \\boxed{7}.", "ground_truth": "7"},
    {"prompt": "3 + 4?", "completion": "It is \\boxed{8}.", "ground_truth": "7"},
    {"prompt": "3 + 4?", "completion": "It is \\boxed{9}.", "ground_truth": None},
]

REWARD_FUNC = """\
import re

def reward_func(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\\\boxed\\{(.*?)\\}", completion[0]["content"]) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]

def asleep(completions, **kwargs):
    from posttrain.types import Unjudged
    return [Unjudged("timed out after 2 s"), 0.25, None]

def fails(completions, ground_truth, **kwargs):
    return [float(gt) for gt in ground_truth]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write("rows.jsonl", ROWS)
    Path("rewards.py").write_text(REWARD_FUNC)


def write(name: str, rows: list[Any]) -> None:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def run(words: str) -> int:
    return main.main(["grade", *words.split()])


def test_grades_mean_and_counts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("boxed_answer --file rows.jsonl") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["line", "grade", "ground_truth", "completion"],
        ["1", "1.000", "7", "It", "is", "\\boxed{7}."],
        ["2", "0.000", "7", "It", "is", "\\boxed{8}."],
        ["3", "none", "It", "is", "\\boxed{9}."],
    ]
    assert lines[5] == (
        "boxed_answer: mean 0.500 over 2 of 3 rows of rows.jsonl; none (not applicable): 1, unjudged: 0"
    )
    assert lines[6] == "results: not kept; --output FILE writes them"


def test_results_are_written_with_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rewards.py:asleep --file rows.jsonl --output graded.jsonl --rows 0") == 0
    page = capsys.readouterr().out
    assert "asleep: mean 0.250 over 1 of 3 rows of rows.jsonl; none (not applicable): 1, unjudged: 1" in page
    assert "  unjudged: timed out after 2 s (1)\nresults: graded.jsonl" in page
    graded = [json.loads(line) for line in Path("graded.jsonl").read_text().splitlines()]
    assert graded == [
        {**ROWS[0], "grade": None, "unjudged": "timed out after 2 s"}, {**ROWS[1], "grade": 0.25},
        {**ROWS[2], "grade": None},
    ]  # fmt: skip


def test_the_tutorials_function_gets_messages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rewards.py:reward_func --file rows.jsonl --messages") == 0
    assert "reward_func: mean 0.333 over 3 of 3 rows" in capsys.readouterr().out
    assert run("rewards.py:reward_func --file rows.jsonl") == 2
    errors = capsys.readouterr().err
    assert "reward 'reward_func' raised for rows.jsonl:1: TypeError" in errors
    assert "give --messages" in errors
    conversations = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    write("rows.jsonl", conversations)
    assert run("rewards.py:reward_func --file rows.jsonl") == 0


def test_options_other_columns_and_token_ids(capsys: pytest.CaptureFixture[str]) -> None:
    write("rows.jsonl", [{"prompt": "?", "said": "one two three", "completion_ids": [1, 2, 3, 4]}])
    assert run("length --file rows.jsonl --completion_column said --option target=6 unit=words") == 0
    assert "mean 0.500" in capsys.readouterr().out
    assert run("length --file rows.jsonl --completion-column=said --option=target=5 --option unit=tokens") == 0
    assert "mean 0.800" in capsys.readouterr().out


def test_what_was_graded_before_an_error_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grade, "_BATCH", 2)
    assert run("rewards.py:fails --file rows.jsonl --output graded.jsonl") == 2
    errors = capsys.readouterr().err
    assert "reward 'fails' raised for rows.jsonl:3: TypeError" in errors
    assert "The 2 rows before are in graded.jsonl." in errors
    assert [json.loads(line)["grade"] for line in Path("graded.jsonl").read_text().splitlines()] == [7.0, 7.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "?"}, "rows.jsonl:4: there is no 'completion' in the row (its columns: prompt)"),
        ({"prompt": "?", "completions": "x"}, "rows.jsonl:4: there is no 'completion' in the row; did you mean 'compl"),
        ({"completion": "x"}, "rows.jsonl:4: there is no 'prompt' in the row"),
        ({"prompt": "?", "completion": 3}, "rows.jsonl:4: 'completion' must be a list of messages"),
        ({"prompt": "?", "completion": [{"role": "asistant", "content": ""}]}, "rows.jsonl:4: completion[0] has the"),
        ("x", "rows.jsonl:4: a row must be a dict"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named(row: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("rows.jsonl", [*ROWS, row])
    assert run("boxed_answer --file rows.jsonl --output graded.jsonl") == 2
    assert message in capsys.readouterr().err
    assert not Path("graded.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("boxd_answer --file rows.jsonl", "no reward 'boxd_answer'; did you mean 'boxed_answer'?"),
        ("boxed_answer", "which completions? Name a file: posttrain grade boxed_answer --file rows.jsonl"),
        ("--file rows.jsonl", "which reward?"),
        ("boxed_answer length --file rows.jsonl", "'length': a second reward"),
        ("boxed_answer --fil rows.jsonl", "unknown flag '--fil'; did you mean '--file'?"),
        ("boxed_answer --file", "--file needs a value"),
        ("boxed_answer --file --messages", "--file needs a value"),
        ("boxed_answer --file row.jsonl", "did you mean 'rows.jsonl'?"),
        ("boxed_answer --file rows.jsonl --rows x", "--rows='x' must be a whole number"),
        ("boxed_answer --file rows.jsonl --output ./rows.jsonl", "--output is the file with the rows"),
        ("length --file rows.jsonl --option target", "--option 'target' must be key=value"),
        ("length --file rows.jsonl --option taget=3", "has no option 'taget'; did you mean 'target'?"),
        ("boxed_answer --file rows.jsonl --option column=gold", "no column 'gold'"),
        ("rewards.py:reward_fun --file rows.jsonl", "did you mean 'reward_func'?"),
    ],
)
def test_broken_commands(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert message in capsys.readouterr().err


def test_the_list_and_the_page_of_a_reward(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    page = capsys.readouterr().out
    assert [line.split()[0] for line in page.splitlines()[1:]] == list(REWARDS)
    assert max(map(len, page.splitlines())) <= 100
    assert run("length --help") == 0
    page = capsys.readouterr().out
    assert "A reward for the length" in page
    assert "  target: int | None = None" in page


@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_help_and_list_are_instant(flag: str) -> None:
    """Half a second of processor time, the best of three, and none of the slow packages."""
    code = (
        "import sys\nfrom posttrain.cli.main import main\n"
        f"main(['grade', {flag!r}])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'rich', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
