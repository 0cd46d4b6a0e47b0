"""Rows that hold questions of an evaluation set, by runs of words."""

import json

import pytest

from posttrain.curation.filters.contamination import EvaluationIndex, Question, read_questions
from posttrain.curation.filters.shingles import tokens
from posttrain.curation.filters.spoken import Spoken
from posttrain.errors import DataError

LONG = "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10"  # ten words: three runs of eight


def judge(index, *rows):
    said = [row if isinstance(row, Spoken) else Spoken(prompt=row, answers=("ok",)) for row in rows]
    return index.judge(said, tokens([one.text for one in said]))


def index_of(*texts, **options):
    return EvaluationIndex([Question(place=f"test:{n}", text=text) for n, text in enumerate(texts, 1)], **options)


def test_the_share_that_runs_cover_by_hand():
    # Eight of the ten words follow each other in the row: 80%. Seven do not make a run.
    index = index_of(LONG, share=0.8)
    assert judge(index, "x a1 a2 a3 a4 a5 a6 a7 a8 y") == [f"holds 80% of test:1: {LONG!r}"]
    assert judge(index, "x a1 a2 a3 a4 a5 a6 a7 y a8 a9") == [None]
    assert judge(index_of(LONG, share=0.81), "x a1 a2 a3 a4 a5 a6 a7 a8 y") == [None]


def test_overlapping_and_separate_runs_count_once():
    # Runs of two: "a1 a2" and "a2 a3" cover three words, "a9 a10" two more; the same run twice counts once.
    index = index_of(LONG, words=2, share=0.5)
    assert judge(index, "a1 a2 a3 zz a9 a10 zz a1 a2") == [f"holds 50% of test:1: {LONG!r}"]
    assert judge(index, "a1 a2 a3 zz a1 a2 a3") == [None]


def test_case_and_signs_do_not_hide_a_question():
    index = index_of("How many eggs does Janet sell every day at the market?")
    row = "Solve:\n\nHOW MANY eggs, does Janet sell -- every day at the market?!"
    assert judge(index, row)[0].startswith("holds 100% of test:1")


def test_answers_are_searched_too():
    row = Spoken(prompt="Tell me a riddle", answers=(f"Here: {LONG}",))
    assert judge(index_of(LONG), row)[0].startswith("holds 100%")


def test_the_question_that_is_covered_most_is_named():
    other = "a1 a2 a3 a4 a5 a6 a7 a8 b1 b2 b3 b4"
    assert judge(index_of(other, LONG), LONG)[0].startswith("holds 100% of test:2")


def test_short_questions_are_one_run_and_very_short_ones_the_whole_prompt():
    index = index_of("What is the capital of France?", "What is 12?")
    assert judge(index, "Now: what is the capital of France, please?")[0].startswith("holds 100% of test:1")
    assert judge(index, "What is the capital of Spain?") == [None]
    assert judge(index, "what is 12")[0].startswith("holds 100% of test:2")
    assert judge(index, "what is 12 + 5") == [None]


def test_chinese_by_characters():
    question = "小明有十二个苹果，他给了小红五个，还剩几个？"
    index = index_of(question, "天空")
    assert judge(index, f"请回答：{question}")[0].startswith("holds 100% of test:1")
    assert judge(index, "小红有十二个梨，她给了小明三个，还剩几个？") == [None]
    assert judge(index, "天空")[0].startswith("holds 100% of test:2")
    assert judge(index, "天空是什么颜色") == [None]


def test_many_rows_and_empty_ones():
    index = index_of(LONG)
    assert [bool(one) for one in judge(index, "", LONG, "b " * 50, Spoken(), f"x {LONG}")] == [
        False, True, False, False, True,
    ]  # fmt: skip
    assert judge(index_of("", "  "), LONG) == [None]


def test_questions_are_what_stands_before_the_answer(tmp_path):
    file = tmp_path / "test.jsonl"
    rows = [
        {"question": "How many?", "answer": "12"},
        {"prompt": "def f():", "canonical_solution": "return 1", "task_id": "HumanEval/0"},
        {"id": "s0", "question": [[{"role": "user", "content": "Call it."}]], "function": []},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    questions = read_questions([str(file)])
    assert [(q.place, q.text) for q in questions] == [
        (f"{file}:1", "How many?"), (f"{file}:2", "def f():"), (f"{file}:3", "Call it."),
    ]  # fmt: skip
    file.write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.jsonl:1"):
        read_questions([str(file)])
