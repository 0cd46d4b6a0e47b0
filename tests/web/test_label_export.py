"""From judgements to preference rows, and what they say as a whole; numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.curation.rows import PROVENANCE
from posttrain.errors import ConfigError
from posttrain.web.export import check_output, decide, export
from posttrain.web.journal import Journal, Judgement
from posttrain.web.questions import Answer, Question, read_questions
from posttrain.web.summary import agreement, by_writer, summarise


def asked(*texts: str, id: str = "q", label: int | None = None) -> Question:
    answers = tuple(
        Answer(text=text, content=[{"role": "assistant", "content": text}], writers=({"model": f"m-{text}"},))
        for text in texts
    )
    return Question(
        id=id, prompt=[{"role": "user", "content": "?"}], answers=answers, label=label, provenance={"line": 7}
    )


def vote(name: str, said: int | str, *, question: str = "q", text: str | None = None, time: str = "1") -> Judgement:
    about: dict[str, Any] = {"annotator": name, "question": question, "time": time, "order": (1, 0)}
    if isinstance(said, str):
        return Judgement(verdict=said, **about)  # type: ignore[arg-type]
    return Judgement(verdict="edit" if text else "prefer", answer=said, text=text, **about)


def sides(question: Question, *votes: Judgement) -> list[tuple[str, str]]:
    decided = decide(question, votes)
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in decided.rows]


def test_the_preferred_answer_against_every_other() -> None:
    question = asked("x", "y", "z")
    assert sides(question, vote("ana", 1)) == [("y", "x"), ("y", "z")]
    row = decide(question, [vote("ana", 1)]).rows[0]
    assert row["prompt"] == question.prompt
    assert row[PROVENANCE] == {
        "line": 7, "passed": ["label"],
        "label": {
            "question": "q", "votes": [{"annotator": "ana", "verdict": "prefer", "for_chosen": True}], "edited": False,
            "chosen": [{"model": "m-y"}], "rejected": [{"model": "m-x"}],
        },
    }  # fmt: skip


def test_an_edited_answer_is_chosen_over_all_that_were_shown() -> None:
    assert sides(asked("x", "y"), vote("ana", 1, text="better")) == [("better", "x"), ("better", "y")]
    # two people prefer the same answer and one mends it: the mended one stands
    assert sides(asked("x", "y"), vote("ana", 1, text="better"), vote("ben", 1)) == [("better", "x"), ("better", "y")]
    twice = vote("ana", 1, text="first", time="1"), vote("ben", 1, text="second", time="2")
    assert sides(asked("x", "y"), *twice) == [("second", "x"), ("second", "y")]
    # the edit of an answer that lost is not used
    assert sides(asked("x", "y"), vote("ana", 1, text="no"), vote("ben", 0), vote("eve", 0)) == [("x", "y")]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ([], "waiting"), (["skip"], "skipped"), (["tie"], "tie"), ([0, 1], "disagreement"),
        ([0, "tie"], "disagreement"), ([0, 0, 1], "pairs"), ([0, "tie", "tie"], "tie"),
        ([0, "skip", "skip"], "pairs"), ([0, 0, 1, 1], "disagreement"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_question(said: list[int | str], outcome: str) -> None:
    votes = [vote(f"person {n}", one) for n, one in enumerate(said)]
    decided = decide(asked("x", "y"), votes)
    assert decided.outcome == outcome
    assert bool(decided.rows) == (outcome == "pairs")


def test_agreement_of_two_by_hand() -> None:
    # Ten questions; alike in 7. Ana: 0 six times, 1 four times. Ben: 0 five times, 1 four times, a tie once.
    # By chance .6 x .5 + .4 x .4 = .46; (.7 - .46) / .54 = 4/9. A skip counts for nothing.
    ana = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, "skip", 0]
    ben = [0, 0, 0, 0, 1, "tie", 1, 1, 1, 0, 0, "skip"]
    votes = [
        vote(name, said, question=str(n)) for name, all_ in (("ana", ana), ("ben", ben)) for n, said in enumerate(all_)
    ]
    found = agreement(votes)
    assert found is not None
    assert (found.measure, found.kappa.n) == ("Cohen's kappa", 10)
    assert found.kappa.estimate == pytest.approx(4 / 9)
    assert found.alike == pytest.approx(0.7)
    assert found.text().startswith("ana and ben agree in 70.0% of 10 questions: Cohen's kappa 0.44 [")


def test_agreement_of_three_by_hand() -> None:
    table = [(0, 0, 0), (0, 1, 1), (1, 1, 1)]  # the example of tests/stats: 0.55
    votes = [vote(name, said, question=str(n)) for n, row in enumerate(table) for name, said in zip("abc", row)]
    found = agreement(votes)
    assert found is not None
    assert (found.measure, found.kappa.estimate) == ("Fleiss' kappa", pytest.approx(0.55))
    assert found.alike == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert agreement([vote("ana", 0), vote("ben", 0, question="another")]) is None


def test_all_alike_has_no_kappa_and_says_so() -> None:
    found = agreement([vote("ana", 0), vote("ben", 0)])
    assert found is not None
    assert "kappa says nothing" in found.text()
    assert found.as_dict()["kappa"] is None


def test_people_in_numbers() -> None:
    questions = [asked("x", "y", id=str(n), label=1) for n in range(4)]
    votes = [
        vote("ana", 1, question="0"), vote("ana", 0, question="1"), vote("ana", "tie", question="2"),
        vote("ana", "skip", question="3"), vote("ana", 1, question="strange"),
    ]  # fmt: skip
    (ana,) = summarise(questions, votes).people
    assert ana.text().startswith("ana: 2 preferred, 1 tied, 1 skipped; ")
    assert (ana.first_shown and ana.first_shown.estimate) == 0.5  # (1, 0) is how they were shown
    assert (ana.with_label and ana.with_label.estimate) == 0.5
    assert by_writer(questions, votes) == {
        "m-x": {"shown": 3, "preferred": 1, "tied": 1}, "m-y": {"shown": 3, "preferred": 1, "tied": 1},
    }  # fmt: skip


def test_files_of_an_export_and_of_the_next(tmp_path: Path) -> None:
    source, path = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": f"question {n}", "answers": [{"text": "x", "model": "A"}, "y"]} for n in range(5)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    read = read_questions([str(source)])
    with Journal(check_output(path, [str(source)])) as journal:
        for question, said in zip(read.questions, (0, "tie", "skip", 0)):
            journal.add(vote("ana", said, question=question.id))
        journal.add(vote("ben", 1, question=read.questions[3].id))

        def write() -> str:
            return export(path, read, journal, inputs=[str(source)], settings={"seed": 0}).text()

        assert write() == f"{path}: 1 pair of 1 question (1 tied, 1 without a majority, 1 skipped, 1 waiting)"
        (row,) = map(json.loads, path.read_text().splitlines())
        assert {row["chosen"][0]["content"], row["rejected"][0]["content"]} == {"x", "y"}
        rejects = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()]
        assert [(one["step"], one["line"]) for one in rejects] == [
            ("questions", 6), ("tie", 2), ("skipped", 3), ("disagreement", 4),
        ]  # fmt: skip
        card = json.loads((tmp_path / "out.jsonl.card.json").read_text())
        assert [(step["rows_in"], step["rows_out"]) for step in card["steps"]] == [(6, 5), (5, 4), (4, 3), (3, 1)]
        assert card["output"]["file"] == str(path)
        assert card["counts"]["models"] == {"A": card["counts"]["models"]["A"]}
        assert card["counts"]["agreement"]["questions"] == 1
        journal.add(vote("ana", 1, question=read.questions[4].id))
        assert "2 pairs of 2 questions" in write()
    assert len(path.read_text().splitlines()) == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "out.jsonl.card.json", "out.jsonl.judgements.jsonl", "out.jsonl.rejects.jsonl",
    ]  # fmt: skip


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="also an input"):
        check_output(path, [str(path)])
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match="was not made here"):
        check_output(path, ["in.jsonl"])


def test_rows_with_plain_text_come_out_as_plain_text(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "2 + 2 = ", "chosen": "4", "rejected": "5"}\n')
    (question,) = read_questions([str(source)]).questions
    edited = decide(question, [vote("ana", question.label or 0, text="four")]).rows
    assert [(row["prompt"], row["chosen"]) for row in edited] == [("2 + 2 = ", "four")] * 2
    assert {row["rejected"] for row in edited} == {"4", "5"}
