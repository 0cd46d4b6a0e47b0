"""What is asked, from every shape of file, and what leaves a row without a question."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.web.questions import read_questions


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ASKED = [{"role": "user", "content": "2 + 2?"}]


def test_answers_of_any_form(tmp_path: Path) -> None:
    answers = ["4", {"text": "5", "model": "base", "score": 0.5}, said("22"), {"role": "assistant", "content": "four"}]
    source = written(tmp_path / "a.jsonl", [{"prompt": "2 + 2?", "answers": answers, "_provenance": {"seed": 3}}])
    (question,) = read_questions([source]).questions
    assert question.prompt == ASKED
    assert {answer.text: answer.content for answer in question.answers} == {
        text: said(text) for text in ("4", "5", "22", "four")
    }
    assert {answer.text: answer.writers for answer in question.answers}["5"] == ({"model": "base", "score": 0.5},)
    assert question.provenance == {"source": source, "line": 1, "seed": 3}


def test_preference_rows_keep_their_shape_and_their_label(tmp_path: Path) -> None:
    rows = [
        {"prompt": ASKED, "chosen": said("4"), "rejected": said("5"), "tools": [{"name": "add"}]},
        {"prompt": "2 + 2 = ", "chosen": "4", "rejected": "5"},
        {"chosen": [*ASKED, *said("yes")], "rejected": [*ASKED, *said("no")]},
    ]
    found = read_questions([written(tmp_path / "p.jsonl", rows)]).questions
    assert [question.prompt for question in found] == [ASKED, "2 + 2 = ", ASKED]
    assert [question.answers[question.label or 0].text for question in found] == ["4", "4", "yes"]
    assert found[1].answers[0].content in ("4", "5")
    assert found[0].columns == {"tools": [{"name": "add"}]}


def test_files_of_sampled_answers_come_together_by_their_prompt(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "3 + 3?"}]
    files = []
    for name, answers in (("sft", ["4", "6"]), ("dpo", ["four", "six"])):
        rows = [
            {"prompt": asked, "completion": said(text), "row": row, "number": 0}
            for row, (asked, text) in enumerate(zip((ASKED, other), answers))
        ]
        files.append(written(tmp_path / f"{name}.jsonl", rows))
    (tmp_path / "sft.jsonl.settings.json").write_text('{"model": "runs/sft/model"}')
    first, second = read_questions(files).questions
    assert (first.prompt, second.prompt) == (ASKED, other)
    assert {answer.text: answer.writers for answer in first.answers} == {
        "4": ({"model": "runs/sft/model"},), "four": ({"model": "dpo.jsonl"},),
    }  # fmt: skip
    turned = read_questions(files[::-1]).questions
    assert [question.id for question in turned] == [first.id, second.id]  # so judgements stay with their question


def test_what_two_wrote_alike_is_shown_once(tmp_path: Path) -> None:
    answers = [{"text": "4", "model": "a"}, {"text": "4", "model": "b"}, {"text": "5", "model": "a"}]
    (question,) = read_questions([written(tmp_path / "a.jsonl", [{"prompt": "2 + 2?", "answers": answers}])]).questions
    assert {answer.text: [w["model"] for w in answer.writers] for answer in question.answers} == {
        "4": ["a", "b"], "5": ["a"],
    }  # fmt: skip


def test_what_asks_nothing_is_refused_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = {"prompt": "2 + 2?", "answers": ["4", "5"]}
    bad = [
        "{broken", {"prompt": "a", "answers": ["one"]}, {"prompt": "a", "answers": ["same", "same"]},
        {"prompt": "a", "answers": "text"}, {"answers": ["1", "2"]}, {"text": "nothing to judge"},
        {"prompt": "a", "answers": [str(n) for n in range(10)]}, {"prompt": "a", "answers": [1, 2]},
        {"prompt": "a", "chosen": "b", "rejected": None}, {"prompt": "alone", "completion": "once"},
        {"prompt": said("no"), "answers": ["1", "2"]}, good,
    ]  # fmt: skip
    source = written(tmp_path / "a.jsonl", [good, *bad])
    found = read_questions([source])
    assert (len(found.questions), len(found.refused), found.rows) == (1, len(bad), 1 + len(bad))
    reasons = " | ".join(refused.reason for refused in found.refused)
    for part in ("one answer", "all the same", "must be a list", "no 'prompt'", "hold no answers", "at most 9",
                 "answers[0] must be", "'rejected' is empty", "asks for an answer", "an earlier row"):  # fmt: skip
        assert part in reasons, part
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        read_questions([source], strict=True)


def test_a_file_without_a_question_is_an_error_that_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to judge.*'answers'"):
        read_questions([written(tmp_path / "a.jsonl", [{"messages": [*ASKED, *said("4")]}])])


def test_the_order_is_each_persons_own_and_stays(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "answers": ["a", "b", "c"]} for n in range(300)]
    found = read_questions([written(tmp_path / "a.jsonl", rows)]).questions
    ana, ben = ([question.order(name, 0) for question in found] for name in ("ana", "ben"))
    assert ana == [question.order("ana", 0) for question in found]
    assert 20 < sum(a == b for a, b in zip(ana, ben)) < 90  # a sixth of 300 is 50
    assert ana != [question.order("ana", 1) for question in found]
    counts = Counter(map(tuple, ana))
    assert len(counts) == 6
    assert min(counts.values()) > 25


def test_an_answer_that_is_more_than_its_text_is_not_edited(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]}
    answers = ["4", [call, {"role": "tool", "content": "4"}, *said("four")]]
    (question,) = read_questions([written(tmp_path / "a.jsonl", [{"prompt": "2?", "answers": answers}])]).questions
    editable = {answer.text[:6]: answer.editable for answer in question.answers}
    assert editable == {"4": True, "(call)": False}
    told = next(answer.text for answer in question.answers if answer.text.startswith("(call)"))
    assert "tool:\n4" in told
    assert told.endswith("four")
