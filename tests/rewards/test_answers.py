"""Final answers are found where they stand, compared by value, and cost little whatever a model writes."""

from __future__ import annotations

import json
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import RewardError
from posttrain.rewards.answers import (
    after,
    boxed,
    boxed_answer,
    final_answer,
    last_number,
    marked_answer,
    normalize_answer,
    stated,
)
from posttrain.rewards.exact_numbers import read_number
from posttrain.rewards.mathematics import math_answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so \\boxed{72}.", "72"),
        ("\\boxed{1} no, \\boxed{2}", "2"),  # the last one
        ("\\fbox{1} then \\boxed{2}", "2"),
        ("\\boxed{1} then \\fbox{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),  # escaped braces close nothing
        ("\\boxed {72}", "72"),
        ("$\\boxed 72$", "72"),
        ("\\boxed 7.", "7"),
        ("\\boxed{ 72 }", "72"),
        ("\\boxed{72", None),  # cut off
        ("\\boxed{1} and \\boxed{7", None),  # the last one is cut off: what came before it was not the end
        ("\\boxed{{72}", None),
        ("72", None),
        ("\\boxed", None),
        ("", None),
    ],
)
def test_the_last_box(text: str, found: str | None) -> None:
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is 72.", "72"),
        ("The answer is 3.5. She pays it.", "3.5"),
        ("the answer is 1; no, the answer is 2", "2"),
        ("**Answer:** 72", "72"),
        ("Answer: 72\nThanks", "72"),
        ("Final answer:\n72", "72"),
        ("The final answer is $72$", "$72$"),
        ("final answer 72", "72"),
        ("My answer stands at 72", None),
        ("The answer is", None),
    ],
)
def test_a_stated_answer(text: str, found: str | None) -> None:
    assert stated(text) == found


def test_after_a_marker() -> None:
    assert after("####")("work\n#### 72\nmore") == "72"
    assert after("####")("#### 1\n#### 2") == "2"
    assert after("RESULT>")("RESULT>\n 72") == "72"
    assert after("####")("72") is None
    assert after("####")("#### ") is None


def test_the_last_number() -> None:
    assert last_number("first 1, then 1,234.50 in all.") == "1,234.50"
    assert last_number("it fell to -3") == "-3"
    assert last_number("between 3 and 1/2") == "1/2"
    assert last_number("none") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72), ("-5", -5), ("−5", -5), ("+5", 5), ("007", 7),
        ("$1,234.00", 1234), ("\\$1{,}234", 1234), ("-$5", -5), ("$-5", -5), ("€3", 3), ("1,234,567", 1234567),
        ("1/2", Fraction(1, 2)), ("11/2", Fraction(11, 2)), ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("\\dfrac12", Fraction(1, 2)), ("1 1/2", Fraction(3, 2)), ("2\\frac{1}{3}", Fraction(7, 3)),
        ("0.333", Fraction(333, 1000)), (".5", Fraction(1, 2)), ("5.", 5),
        ("1.5e3", 1500), ("3\\times 10^{8}", 300000000), ("2 × 10^3", 2000), ("50\\%", 50), ("50 percent", 50),
    ],
)  # fmt: skip
def test_numbers_are_read_exactly(text: str, value: Fraction | int) -> None:
    number = read_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "1 2", "12,34", "0,123", "1/0", "--5", "1e9999", "7" * 500, "2 3/2", "3 apples", "1_000", "5!", "10^3"],
)
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) is None


def test_what_surrounds_an_answer_does_not_count() -> None:
    for text in (
        "72",
        "72.",
        " 72 ",
        "$72$",
        "**72**",
        "\\(72\\)",
        "\\text{72}",
        "$\\text{72}$.",
        "`72`",
        "{72}",
        "72%",
    ):
        assert normalize_answer(text) == 72, text
    assert normalize_answer("$\\text{Monday}$.") == "Monday"
    assert normalize_answer("Monday") != normalize_answer("monday")
    assert normalize_answer("Monday", ignore_case=True) == normalize_answer("monday", ignore_case=True)
    assert normalize_answer("\\text{a} or \\text{b}") == "\\text{a} or \\text{b}"


def test_units_are_dropped_only_where_told() -> None:
    for text in (
        "72 clips",
        "72clips",
        "72\\text{ cm}",
        "72 cm^2",
        "72 km/h",
        "72^\\circ",
        "72°C",
        "$72 dollars",
        "72 m²",
    ):
        assert normalize_answer(text) == text.strip("."), text
        assert normalize_answer(text, strip_units=True) == 72, text
    assert normalize_answer("clips", strip_units=True) == "clips"
    assert normalize_answer("3 of 4", strip_units=True) == "3 of 4"


def graded(reward: Any, text: str, gold: Any, **columns: Any) -> Any:
    return reward(prompts=["p"], completions=[text], completion_ids=[[1]], ground_truth=[gold], **columns)[0]


@pytest.mark.parametrize("near", ["720", "7", "72.5", "-72", "7 2", "72/1000", "x=72", "72 or 73", ""])
def test_a_near_miss_is_wrong(near: str) -> None:
    assert graded(boxed_answer(), f"\\boxed{{{near}}}", "72") == 0.0
    assert graded(final_answer(), f"The answer is {near}", "72") == 0.0


def test_a_third_is_not_its_first_decimals() -> None:
    assert graded(boxed_answer(), "\\boxed{0.333}", "1/3") == 0.0
    assert graded(boxed_answer(), "\\boxed{\\frac{2}{6}}", "1/3") == 1.0
    assert graded(boxed_answer(), "\\boxed{x=2}", "2") == 0.0


def test_each_reward_reads_its_own_style() -> None:
    assert graded(boxed_answer(), "#### 72", "72") == 0.0
    assert graded(marked_answer(), "#### 72", "72") == 1.0
    assert graded(marked_answer("=>"), "so => 72", "thus => 72") == 1.0
    assert graded(marked_answer("=>"), "#### 72", "72") == 0.0
    for text in ("\\boxed{72}", "#### 72", "The answer is 72.", "the answer is 1, so \\boxed{72}"):
        assert graded(final_answer(), text, "72") == 1.0, text
    assert graded(final_answer(), "that makes 72", "72") == 0.0
    assert graded(final_answer(lenient=True), "that makes 72 in all.", "72") == 1.0
    assert graded(final_answer(strip_units=True), "The answer is 72 clips.", "72") == 1.0
    assert graded(final_answer(), "The answer is 72 clips.", "72") == 0.0


def test_only_what_follows_the_thinking_counts_where_asked() -> None:
    reward = boxed_answer(after_think=True)
    assert graded(reward, "<think>\\boxed{1}</think>\\boxed{72}", "72") == 1.0
    assert graded(reward, "<think>\\boxed{72}</think> I do not know", "72") == 0.0
    assert graded(reward, "<think>\\boxed{72}", "72") == 0.0
    assert graded(boxed_answer(), "<think>\\boxed{72}</think> I do not know", "72") == 1.0


def test_completions_may_be_messages() -> None:
    completion = [{"role": "assistant", "content": "\\boxed{72}"}]
    assert boxed_answer()(prompts=[[]], completions=[completion], completion_ids=[[1]], answer=["72"]) == [1.0]


def test_the_right_answer_comes_from_the_first_column_there_is() -> None:
    common = {"prompts": ["p"], "completions": ["\\boxed{72}"], "completion_ids": [[1]]}
    reward = boxed_answer()
    assert reward(**common, answer=["... <<1+1=2>>\n#### 72"]) == [1.0]
    assert reward(**common, solution=["We find $\\boxed{72}$."]) == [1.0]
    assert reward(**common, ground_truth=["1"], answer=["72"]) == [0.0]
    assert reward(**common, answer=[72]) == [1.0]
    assert reward(**common, answer=[72.0]) == [1.0]
    assert reward(**common, answer=[None]) == [None]
    assert reward(**common, answer=[float("nan")]) == [None]
    assert reward(**common, answer=[" "]) == [None]
    assert boxed_answer(column="gold")(**common, gold=["72"], answer=["1"]) == [1.0]


def test_a_missing_or_unfit_column_is_said() -> None:
    common = {"prompts": ["p"], "completions": ["\\boxed{72}"], "completion_ids": [[1]]}
    with pytest.raises(RewardError, match=r"ground_truth.*question"):
        boxed_answer()(**common, question=["?"])
    with pytest.raises(RewardError, match=r"row 0.*list"):
        boxed_answer()(**common, answer=[["72"]])
    with pytest.raises(RewardError, match="marker is empty"):
        marked_answer(" ")


MEGABYTES = 3_000_000


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" + "{" * MEGABYTES,
        "\\boxed{" + "{" * MEGABYTES + "}" * MEGABYTES + "}",
        "\\boxed{" * (MEGABYTES // 7),
        "\\boxed" + " " * MEGABYTES,
        "}" * MEGABYTES,
        "#### " + "#" * MEGABYTES,
        "answer" + " " * MEGABYTES,
        "answer:" * (MEGABYTES // 7),
        "9" * MEGABYTES,
        "-$" * MEGABYTES,
        "\\boxed{" + "-" + " " * 9000 + "1}",
        "\\boxed{" + "\\text{" * 1500 + "}" * 1500 + "}",
        "\\boxed{" + "9" * 9000 + "}",
        "\\boxed{1e999999999}",
        "\\boxed{1" + ",111" * 2000 + "x}",
        "The answer is " + "a." * MEGABYTES,
    ],
)
def test_hostile_text_costs_little(text: str) -> None:
    reward = final_answer(lenient=True, strip_units=True)
    start = time.process_time()
    assert graded(reward, text, "72") == 0.0
    assert time.process_time() - start < 1.5


def test_megabytes_of_braces_in_a_box_cost_milliseconds() -> None:
    text = "\\boxed{" + "{" * MEGABYTES
    start = time.process_time()
    assert boxed(text) is None
    assert time.process_time() - start < 0.1


STYLES = {
    "boxed": "so \\boxed{%s}", "dollars in the box": "\\boxed{\\$%s}", "mathematics": "Thus $\\boxed{%s}$.",
    "marker": "work\n#### %s", "dollars after the marker": "#### $%s", "sentence": "The answer is %s.",
    "dollars in a sentence": "The answer is $%s.", "bold": "**Answer:** %s", "final": "Final answer: **%s**",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["exact", "mathematics"])
def test_every_gold_answer_of_gsm8k_is_right_in_every_style_and_wrong_one_higher(kind: str) -> None:
    if kind == "mathematics":
        pytest.importorskip("math_verify")
    reward = final_answer() if kind == "exact" else math_answer()
    if not os.environ.get("POSTTRAIN_DATA"):
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    files = [Path(os.environ["POSTTRAIN_DATA"], "gsm8k", name) for name in ("train.jsonl", "test.jsonl")]
    solutions = [json.loads(line)["answer"] for file in files for line in file.read_text("utf-8").splitlines()]
    assert len(solutions) == 7473 + 1319
    written = [solution.rpartition("####")[2].strip() for solution in solutions]
    values = [Fraction(number.replace(",", "")) for number in written]
    common = {"prompts": [""] * len(written), "completion_ids": [[1]] * len(written), "answer": solutions}

    one_higher = [str(value + 1) for value in values]
    for style, form in STYLES.items():
        for forms in (
            written,
            [f"{int(value):,}.00" if value.denominator == 1 else str(value) for value in values],
        ):
            texts = [form % text for text in forms]
            scores = reward(completions=texts, **common)
            wrong = [text for text, score in zip(texts, scores) if score != 1.0]
            assert not wrong, f"{style}: {wrong[:5]}"
        texts = [form % text for text in one_higher]
        assert not any(reward(completions=texts, **common)), f"{style}, one higher"
