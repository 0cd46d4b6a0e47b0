"""`posttrain data label` as far as it needs no page; the page is tested in tests/web."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.data.loading import load_rows
from posttrain.web.journal import Journal, Judgement
from posttrain.web.questions import read_questions


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    rows = [{"prompt": f"Question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "no answers"}\n')
    return path


def test_what_was_judged_is_written_compared_and_summed_up(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    with Journal(tmp_path / "out.jsonl.judgements.jsonl") as journal:
        for name in ("ana", "ben"):
            for number, question in enumerate(read_questions([str(source)]).questions):
                label = question.label or 0
                answer = 1 - label if (name, number) == ("ben", 3) else label
                journal.add(
                    Judgement(annotator=name, question=question.id, verdict="prefer", answer=answer, order=(0, 1))
                )
        journal.add(Judgement(annotator="ana", question="of another file", verdict="tie"))
    with (tmp_path / "out.jsonl.judgements.jsonl").open("a") as file:
        file.write('{"annotator": "an')  # the power went
    assert main(["data", "label", str(source), "--output", str(output), "--export"]) == 0
    told = capsys.readouterr()
    assert "the file's chosen one in 100.0% [51.0, 100.0] of 4" in told.out
    assert "ben: 4 preferred" in told.out
    assert "ana and ben agree in 75.0% of 4 questions: Cohen's kappa" in told.out
    assert told.out.endswith(f"{output}: 3 pairs of 3 questions (1 without a majority)\n")
    assert "ended in half a line" in told.err
    assert "1 row asks nothing" in told.err
    assert "1 judgements are of questions that are not in these inputs" in told.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        (f"Question {n}", f"good {n}", f"bad {n}") for n in range(3)
    ]
    assert all(row["_provenance"]["label"]["as_labelled"] for row in rows)
    # the ending says the form, also a second time
    other = tmp_path / "out.parquet"
    (tmp_path / "out.jsonl.judgements.jsonl").rename(tmp_path / "out.parquet.judgements.jsonl")
    for _ in range(2):
        assert main(["data", "label", str(source), "--output", str(other), "--export"]) == 0
    assert [row["prompt"] for row in load_rows(str(other))] == [row["prompt"] for row in rows]


def test_a_port_that_is_taken_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["data", "label", str(source), "--output", str(tmp_path / "out.jsonl"), "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    command = ["data", "label", str(source), "--output", str(tmp_path / "out.jsonl")]
    assert main(command) == 2
    assert "pip install 'posttrain[label]'" in capsys.readouterr().err
    assert main([*command, "--export"]) == 0  # which needs no page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output", "out.txt"], "must end in .jsonl"), (["--output", "o.jsonl", "--port", "-1"], "port"),
        (["--output", "o.jsonl", "--annotator", "x" * 61], "1 to 60 characters"), ([], "output"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    source: Path, flags: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(source.parent)
    assert main(["data", "label", str(source), *flags]) == 2
    assert said in capsys.readouterr().err
