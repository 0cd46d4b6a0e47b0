"""Answers that are equal as mathematics are right, near misses are wrong, and hostile ones cost the timeout at most."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import pytest

from posttrain.errors import RewardError
from posttrain.rewards.equivalence import decided
from posttrain.rewards.mathematics import math_answer
from posttrain.types import Unjudged

pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("72", "72", True), ("72", "720", False), ("1,234", "$1234.00", True), ("5", "-5", False),
        ("1/3", "\\frac{1}{3}", True), ("\\frac{1}{2}", "0.5", True), ("\\dfrac{2}{4}", "\\tfrac12", True),
        ("1/3", "0.333", False), ("1/3", "0.333333", True), ("1/3", "0.333334", False), ("0", "0.0000001", False),
        ("2/3", "0.666667", True), ("50\\%", "50", True), ("50", "0.5", False), ("90^\\circ", "90", True),
        ("\\text{Monday}", "monday", True), ("Evelyn", "nylevE", False), ("Evelyn", "5", False),
        ("(1, \\frac{1}{2})", "\\left(1, 0.5\\right)", True), ("(1,2)", "(2,1)", False), ("(1,2)", "(1,2,3)", False),
        ("[1,2)", "[1, 2)", True), ("[0,1)", "[0,2)", False), ("\\{1,2\\}", "\\{2, 1\\}", True),
        ("\\{1,2\\}", "\\{1,3\\}", False), ("1,-2", "-2, 1", True), ("1,2", "1,3", False),
        ("\\sqrt{2}", "\\sqrt{2}", True), ("x^2 + 1", "x^2+1", True), ("\\frac{\\pi}{2}", "\\dfrac{\\pi}{2}", True),
    ],
)  # fmt: skip
def test_simple_answers_are_decided_at_sight(gold: str, answer: str, equal: bool) -> None:
    assert decided(gold, answer) is equal


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("50\\%", "0.5"),
        ("2", "x=2"),
        ("\\sqrt{2}", "2^{1/2}"),
        ("(1,2)", "1,2"),
        ("(1,234)", "(1,235)"),
        ("10^3", "1000"),
    ],
)
def test_the_rest_is_left_to_algebra(gold: str, answer: str) -> None:
    assert decided(gold, answer) is None


@pytest.fixture(scope="module")
def reward() -> Any:
    return math_answer(timeout_s=20, processes=1)


def graded(reward: Any, answer: str, gold: str) -> Any:
    completions = [f"so the result is $\\boxed{{{answer}}}$."]
    return reward(prompts=["p"], completions=completions, completion_ids=[[1]], answer=[gold])[0]


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("\\frac{\\sqrt{2}}{2}", "1/\\sqrt{2}", 1.0),
        ("\\frac{\\sqrt{2}}{2}", "1/\\sqrt{3}", 0.0),
        ("x^2+2x+1", "(x+1)^2", 1.0),
        ("x^2+2x+1", "(x-1)^2", 0.0),
        ("2", "x=2", 1.0),
        ("2", "x=3", 0.0),
        ("50\\%", "0.5", 1.0),
        ("10^3", "1000", 1.0),
        ("\\frac{\\pi}{4}", "45", 0.0),
        ("(3, \\frac{\\pi}{2})", "(3, \\pi/2)", 1.0),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}", 0.0),
        ("x \\le 3", "(-\\infty, 3]", 1.0),
        ("5", "__import__('os').getcwd()", 0.0),
        ("5", "\\frac{\\frac{\\sqrt{\\left(", 0.0),  # LaTeX that is not closed
    ],
)
def test_math_verify_decides_what_needs_algebra(reward: Any, gold: str, answer: str, score: float) -> None:
    assert graded(reward, answer, gold) == score


def test_the_answers_of_a_group_are_graded_in_order(reward: Any) -> None:
    scores = reward(
        prompts=["p"] * 5,
        completions=["\\boxed{(x+1)^2}", "\\boxed{7}", "no answer", "\\boxed{(x+1)^2}", "The answer is $1+2x+x^2$."],
        completion_ids=[[1]] * 5,
        ground_truth=["x^2+2x+1", "7", "7", None, "x^2+2x+1"],
    )
    assert scores == [1.0, 1.0, 0.0, None, 1.0]


def test_hostile_answers_cost_the_timeout_and_are_not_judged() -> None:
    reward = math_answer(timeout_s=2.0, processes=2)
    graded(reward, "x+1", "1+x")  # the processes are up
    hostile = ["9^{9^{9^9}}", "(" * 4900 + "x" + ")" * 4900]
    start = time.perf_counter()
    scores = reward(
        prompts=["p"] * 4,
        completions=[f"\\boxed{{{text}}}" for text in (*hostile, "x+2", "2+x")],
        completion_ids=[[1]] * 4,
        answer=["5", "5", "2+x+0", "2+x+0"],
    )
    took = time.perf_counter() - start
    assert [type(score) for score in scores[:2]] == [Unjudged] * 2
    assert scores[2:] == [1.0, 1.0]
    assert took < 8  # one timeout on each process, their replacement, and two that are quick


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" + "{" * 2_000_000,
        "\\boxed{" + "(" * 1_000_000 + ")" * 1_000_000 + "}",
        "\\boxed{\\frac{1}{",
        "\\boxed{" + "\\frac{" * 300_000,
        "$" * 1_000_000,
    ],
)
def test_megabytes_and_open_latex_are_wrong_at_once(reward: Any, text: str) -> None:
    start = time.process_time()
    assert reward(prompts=["p"], completions=[text], completion_ids=[[1]], answer=["x+1"]) == [0.0]
    assert time.process_time() - start < 1


def test_where_the_answer_is_looked_for() -> None:
    def score(text: str, **options: Any) -> Any:
        return math_answer(**options)(prompts=["p"], completions=[text], completion_ids=[[1]], answer=["72"])[0]

    assert score("The answer is 72.") == 1.0
    assert score("The answer is 72.", only_boxed=True) == 0.0
    assert score("that makes 72") == 0.0
    assert score("that makes 72", lenient=True) == 1.0
    assert score("<think>\\boxed{72}</think>", after_think=True) == 0.0
    with pytest.raises(RewardError, match="contradict"):
        math_answer(only_boxed=True, lenient=True)
    with pytest.raises(RewardError, match="timeout_s"):
        math_answer(timeout_s=0)


def test_missing_math_verify_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RewardError, match=r"posttrain\[math\]"):
        math_answer()
