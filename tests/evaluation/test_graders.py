import math
from pathlib import Path

import pytest

from posttrain.errors import DataError, RewardError
from posttrain.evaluation.graders import Graders, described, takes_a_row
from posttrain.evaluation.records import Record
from posttrain.evaluation.results import question_grades, score, several
from posttrain.types import Unjudged

ROWS = [{"ground_truth": "4", "level": 1}, {"ground_truth": "Paris", "level": 2}]
TEXTS = ["So it is 4.", r"\boxed{Paris}"]
PLACES = ["task 't', row 1, sample 1", "task 't', row 2, sample 1"]


def grade(graders, rows=ROWS, prompts=("a", "b"), texts=TEXTS, tokens=None):
    with Graders(graders) as made:
        made.check(rows)
        return made.grade(rows, list(prompts), list(texts), tokens, PLACES), made


def test_strict_and_lenient_stand_side_by_side() -> None:
    found, _ = grade({"strict": "final_answer", "lenient": {"name": "final_answer", "lenient": True}})
    assert found == [{"strict": 0.0, "lenient": 1.0}, {"strict": 1.0, "lenient": 1.0}]


def test_rewards_and_functions_of_a_row_are_told_apart() -> None:
    def reward(completions, level, **columns):
        return [float(len(text) > 11 * number) for text, number in zip(completions, level)]

    def by_row(row, completion):
        return completion == row["ground_truth"]

    assert [takes_a_row(f) for f in (reward, by_row, lambda row, text: True)] == [False, True, True]
    assert not takes_a_row(lambda prompts, completions: [1.0])
    found, _ = grade({"reward": reward, "row": by_row}, texts=[" 4\n", "Paris"])
    assert found == [{"reward": 0.0, "row": 1.0}, {"reward": 0.0, "row": 1.0}]


def test_a_function_in_a_file_is_a_grader(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(prompts, completions, completion_ids, ground_truth, **columns):\n"
        "    return [float(g in c) + 0 * len(i) for c, g, i in zip(completions, ground_truth, completion_ids)]\n"
        "def row(row, completion):\n    return row['ground_truth'] in completion\n"
    )
    found, _ = grade({"a": f"{file}:reward", "b": f"{file}:row"}, tokens=[[1], [2, 3]])
    assert found == [{"a": 1.0, "b": 1.0}] * 2
    before = described(f"{file}:reward")
    file.write_text(file.read_text() + "\n# changed\n")
    assert described(f"{file}:reward") != before
    assert described({"name": "length", "target": 5}) == {"name": "length", "target": 5}


def test_a_conversation_is_graded_as_messages() -> None:
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(completions)
        return [1.0] * len(completions)

    grade({"r": reward}, prompts=["text", [{"role": "user", "content": "q"}]])
    assert seen == [TEXTS[0], [{"role": "assistant", "content": TEXTS[1]}]]


def test_what_cannot_be_judged_has_no_grade_and_is_counted() -> None:
    found, made = grade({"r": lambda completions, **columns: [None, Unjudged("died")]})
    assert found == [{"r": None}, {"r": None}]
    assert made.unjudged == {"r": 1}
    records = [
        Record(task="t", row=row, sample=sample, prompt="", completion="", grades={"r": value})
        for row, sample, value in [(1, 1, 1.0), (1, 2, None), (2, 1, None), (3, 1, 0.0)]
    ]
    assert question_grades(records, "r") == {1: 1.0, 3: 0.0}
    assert (score(records, "r").estimate, score(records, "r").n) == (0.5, 2)
    nothing = score(records[1:2], "r")
    assert nothing.n == 0
    assert math.isnan(nothing.estimate)


def test_mistakes_name_grader_and_place() -> None:
    with pytest.raises(DataError, match=r"row 1, sample 1: grader 'r' returned -1.0; it must"):
        grade({"r": lambda completions, **columns: [-1.0] * len(completions)})

    def fails(completions, **columns):
        return [1 / (0 if "Paris" in text else 1) for text in completions]

    with pytest.raises(RewardError, match=r"reward 'r' raised for task 't', row 2, sample 1: ZeroDivisionError"):
        grade({"r": fails})
    with pytest.raises(RewardError, match=r"no reward 'final_anser'; did you mean 'final_answer'"):
        Graders({"r": "final_anser"})
    with pytest.raises(RewardError, match="takes 'leve', which is no column of the rows; did you mean 'level'"):
        grade({"r": lambda completions, leve: [1.0] * len(completions)})


def test_several_samples_say_what_one_of_them_and_their_majority_achieve() -> None:
    """Right once and twice out of three: pass@3 is 1 and 1; the majority is wrong (7, 7, 4) and right (4, 4, 7)."""
    said = {1: ("The answer is 7.", "The answer is 7.", "The answer is 4."), 2: ("4", "The answer is 4.", "so 7")}
    records = [
        Record(
            task="t", row=row, sample=sample, prompt="", completion=text, answer="4", grades={"r": float("4" in text)}
        )
        for row, texts in said.items()
        for sample, text in enumerate(texts, start=1)
    ]
    found = several(records, "r", 3)
    assert {name: interval.estimate for name, interval in found.items()} == {"pass@3": 1.0, "maj@3": 0.5}
    assert several(records, "r", 2)["pass@2"].estimate == pytest.approx((2 / 3 + 1) / 2)
