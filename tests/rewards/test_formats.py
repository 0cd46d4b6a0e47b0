"""What rewards for form give, worked by hand."""

from __future__ import annotations

import time
from typing import Any

import pytest

from posttrain.errors import RewardError
from posttrain.rewards.formats import (
    json_valid,
    length,
    reasoning_format,
    regex_match,
    repetition_penalty,
    soft_overlong_punishment,
)
from posttrain.types import Unjudged


def graded(reward: Any, *texts: str, ids: Any = None) -> Any:
    completion_ids = [[1]] * len(texts) if ids is None else ids
    return reward(prompts=["p"] * len(texts), completions=list(texts), completion_ids=completion_ids)


def test_thinking_then_an_answer() -> None:
    reward = reasoning_format()
    assert reward.__name__ == "reasoning_format"
    assert graded(reward, "<think>1+1</think>2", "<think>\n1\n</think>\n\n2\n", "<think></think>2") == [1.0, 1.0, 1.0]
    wrong = (
        "2", "<think>2", "<think>1</think>", "<think>1</think> \n", "</think>1<think>2", "so <think>1</think>2",
        "<think>1</think>2</think>3", "<think>1<think>2</think>3", "<Think>1</Think>2", "",
    )  # fmt: skip
    assert graded(reward, *wrong) == [0.0] * len(wrong)
    assert graded(reasoning_format(strict=False), "so <think>1</think>2</think>3", "</think>1<think>2") == [1.0, 0.0]
    assert graded(reasoning_format(opened=True), "1+1</think>2", "<think>1</think>2") == [1.0, 0.0]
    assert graded(reasoning_format(think="reasoning"), "<reasoning>1</reasoning>2", "<think>1</think>2") == [1.0, 0.0]


def test_the_answer_in_its_own_tags() -> None:
    reward = reasoning_format(answer="answer")
    assert graded(reward, "<think>1</think><answer>2</answer>", "<think>1</think>\n<answer>\n2</answer>\n") == [
        1.0,
        1.0,
    ]
    wrong = (
        "<think>1</think>2", "<think>1</think><answer>2", "<think>1</think><answer> </answer>",
        "<answer>2</answer><think>1</think>", "<think>1</think>so <answer>2</answer>",
        "<think>1</think><answer>2</answer>.",
        "<think><answer>2</answer></think>", "<think>1</think><answer>2</answer><answer>3</answer>",
    )  # fmt: skip
    assert graded(reward, *wrong) == [0.0] * len(wrong)
    loose = reasoning_format(answer="answer", strict=False)
    assert graded(loose, "Hm. <think>1</think>so <answer>2</answer>.", "<think>1</think><answer></answer>") == [
        1.0,
        0.0,
    ]


def test_completions_may_be_messages() -> None:
    message = [[{"role": "assistant", "content": "<think>1</think>2"}]]
    assert reasoning_format()(prompts=[[]], completions=message, completion_ids=[[1]]) == [1.0]


def test_a_regular_expression() -> None:
    assert graded(regex_match(r"\d{3}"), "call 911", "call 91") == [1.0, 0.0]
    assert graded(regex_match(r"\d{3}", full=True), "call 911", "911", "911\n") == [0.0, 1.0, 0.0]
    with pytest.raises(RewardError, match="no regular expression"):
        regex_match("(")


def test_a_regular_expression_that_takes_for_ever_is_not_judged() -> None:
    reward = regex_match(r"(a+)+$", timeout_s=1.0)
    scores = graded(reward, "aaa", "b", "a" * 40 + "b")
    assert scores[:2] == [1.0, 0.0]
    assert isinstance(scores[2], Unjudged)


def test_json() -> None:
    reward = json_valid()
    right = ('{"a": [1, 2.5, null]}', " [] \n", '"text"', "9" * 5000)
    assert graded(reward, *right) == [1.0] * len(right)
    wrong = ("{'a': 1}", '{"a": 1,}', '{"a": 1} and more', '{"a": NaN}', "Infinity", "", "yes", "```json\n{}\n```")
    assert graded(reward, *wrong) == [0.0] * len(wrong)
    assert graded(json_valid(fence=True), "```json\n{}\n```", "```\n[1]\n```", "{}", "```json\n{}") == [1, 1, 1, 0]


def test_json_nested_a_million_deep_is_wrong_at_once() -> None:
    start = time.process_time()
    assert graded(json_valid(), "[" * 1_000_000, "[" * 1_000_000 + "]" * 1_000_000, '{"a":' * 200_000) == [0.0] * 3
    assert time.process_time() - start < 1


def test_json_that_fits_a_schema() -> None:
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}
    reward = json_valid(schema)
    assert graded(reward, '{"age": 3}', '{"age": -3}', '{"age": "3"}', "{}", "3", '{"age": 3') == [1, 0, 0, 0, 0, 0]
    recursive = {"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}, "$ref": "#/$defs/list"}
    assert graded(json_valid(recursive), "[[], [[]]]", "[1]", "[" * 900 + "]" * 900) == [1.0, 0.0, 0.0]
    with pytest.raises(RewardError, match="no JSON schema"):
        json_valid({"type": "objekt"})
    with pytest.raises(RewardError, match="not in it"):
        graded(json_valid({"$ref": "https://example.com/schema.json"}), "{}")


def test_length_against_a_target() -> None:
    words = length(target=4)
    assert graded(words, "a b c d", "a b", "a b c d e", "", "a " * 100) == [1.0, 0.5, 0.75, 0.0, 0.0]
    assert graded(length(target=4, unit="characters"), "a b", "abcd") == [0.75, 1.0]
    assert graded(length(target=4, unit="tokens"), "a b", "a", ids=[[1, 2, 3], [1, 2, 3, 4]]) == [0.75, 1.0]


def test_length_between_limits() -> None:
    texts = ("a", "a b", "a b c", "a b c d")
    assert graded(length(minimum=2, maximum=3), *texts) == [0.0, 1.0, 1.0, 0.0]
    assert graded(length(maximum=3), *texts) == [1.0, 1.0, 1.0, 0.0]
    assert graded(length(minimum=2), *texts) == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "options",
    [{}, {"target": 3, "maximum": 4}, {"target": 0}, {"minimum": 3, "maximum": 2}, {"target": 3, "unit": "token"}],
)
def test_length_refuses_what_has_no_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(RewardError, match="length"):
        length(**options)


def test_tokens_are_needed_to_count_them() -> None:
    with pytest.raises(RewardError, match="completion_ids"):
        length(target=3, unit="tokens")(prompts=["p"], completions=["a"])


def test_overlong_completions_are_punished_softly() -> None:
    """L_max 10, cache 4: free up to 6, then -1/4 a token, -1 from 10 on."""
    reward = soft_overlong_punishment(10, 4)
    sizes = (0, 6, 7, 8, 10, 11, 100)
    assert graded(reward, *["x"] * len(sizes), ids=[[0] * size for size in sizes]) == [0, 0, -0.25, -0.5, -1, -1, -1]
    for bad in ((10, 0), (10, 11), (0, 0)):
        with pytest.raises(RewardError, match="soft_punish_cache"):
            soft_overlong_punishment(*bad)


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    reward = repetition_penalty(ngram_size=2, max_penalty=-0.5)
    # "a b a b a": ab ba ab ba, two of four are new
    assert graded(reward, "a b a b a", "a B A b a", "a b c d", "a", "") == [-0.25, -0.25, 0.0, 0.0, 0.0]
    assert graded(repetition_penalty(1, -1.0), "a a a a", "a b") == [-0.75, 0.0]
    assert graded(repetition_penalty(1, -1.0, unit="tokens"), "x", ids=[[7, 7, 8, 8]]) == [-0.5]
    for options in ({"ngram_size": 0}, {"max_penalty": 1.0}, {"unit": "lines"}):
        with pytest.raises(RewardError, match="repetition_penalty"):
            repetition_penalty(**options)  # type: ignore[arg-type]


def test_a_long_repetitive_text_costs_little() -> None:
    start = time.process_time()
    assert graded(repetition_penalty(), "spam " * 200_000)[0] < -0.99
    assert time.process_time() - start < 2
