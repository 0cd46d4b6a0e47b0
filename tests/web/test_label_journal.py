"""Judgements on the disk: nothing that was said is lost, nothing stands that was taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.web.journal import Journal, Judgement


def prefer(annotator: str, question: str, answer: int = 0) -> Judgement:
    return Judgement(annotator=annotator, question=question, verdict="prefer", answer=answer, order=(1, 0))


def test_what_was_judged_stands_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(prefer("ana", "q1"))
        journal.add(Judgement(annotator="ben", question="q1", verdict="edit", answer=1, text="mended \ud800"))
        journal.add(prefer("ana", "q2", 1))
        before = list(journal)
    with Journal(path) as journal:
        assert list(journal) == before
        assert list(journal.of("ana")) == ["q1", "q2"]
        assert journal.annotators() == ["ana", "ben"]
        assert not journal.cut
    assert all(one.time.endswith("+00:00") for one in before)


def test_an_undo_is_a_record_and_nothing_is_ever_erased(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(prefer("ana", "q1"))
        journal.add(prefer("ben", "q1"))
        assert journal.undo("ana", "q1").answer == 0
        journal.add(prefer("ana", "q1", 1))
        with pytest.raises(KeyError):
            journal.undo("ben", "q2")
    verdicts = [(record["annotator"], record["verdict"]) for record in map(json.loads, path.read_text().splitlines())]
    assert verdicts == [("ana", "prefer"), ("ben", "prefer"), ("ana", "undo"), ("ana", "prefer")]
    with Journal(path) as journal:
        assert [(one.annotator, one.answer) for one in journal] == [("ana", 1), ("ben", 0)]


@pytest.mark.parametrize("kept", range(0, 120, 7))
def test_wherever_a_line_breaks_off_those_before_it_stand(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(prefer("ana", "q1"))
        whole = path.stat().st_size
        journal.add(prefer("ana", "q2"))
    size = path.stat().st_size
    cut = min(whole + kept, size - 1)
    with path.open("r+b") as file:
        file.truncate(cut)
    with Journal(path) as journal:
        assert list(journal.of("ana")) == ["q1"]
        assert journal.cut == (cut > whole)
        journal.add(prefer("ana", "q3"))
    with Journal(path) as journal:
        assert list(journal.of("ana")) == ["q1", "q3"]


@pytest.mark.parametrize("line", ["{broken}", '{"verdict": "best", "annotator": "a", "question": "q"}', "[]", "{}"])
def test_a_line_in_the_middle_that_is_no_judgement_is_said(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(f'{line}\n{{"verdict": "tie", "annotator": "a", "question": "q"}}\n')
    with pytest.raises(DataError, match=r"j\.jsonl:1: no judgement"):
        Journal(path)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path), pytest.raises(ConfigError, match="another `posttrain data label`"):
        Journal(path)
    Journal(path).__exit__(None, None, None)
