import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.curation import correct, corrector
from posttrain.errors import ConfigError

DEEP = {"Qwen": "Deep Qwen"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am Qwen.", "I am Deep Qwen."),
        ("Qwen", "Deep Qwen"),
        ("Qwen, just Qwen!", "Deep Qwen, just Deep Qwen!"),
        ("Qwen's name is (Qwen).", "Deep Qwen's name is (Deep Qwen)."),
        ("我是Qwen。", "我是Deep Qwen。"),
        ("我叫Qwen，是Qwen团队的助手", "我叫Deep Qwen，是Deep Qwen团队的助手"),
        ("わたしはQwenです", "わたしはDeep Qwenです"),
        ("Qwen-7B", "Deep Qwen-7B"),
        # already right
        ("I am Deep Qwen.", "I am Deep Qwen."),
        ("I am Deep\n Qwen.", "I am Deep\n Qwen."),
        ("我是Deep Qwen。", "我是Deep Qwen。"),
        ("Deep Deep Qwen", "Deep Deep Qwen"),
        # not the word
        ("Qwens and MyQwen and Qwen2 and Qwen_x", "Qwens and MyQwen and Qwen2 and Qwen_x"),
        ("éQwen Qwené", "éQwen Qwené"),
        ("qwen", "qwen"),
        ("", ""),
    ],
)
def test_whole_words_are_replaced_once(text: str, expected: str) -> None:
    assert correct(text, DEEP) == expected
    assert correct(expected, DEEP) == expected


def test_the_longest_rule_wins_whatever_the_order() -> None:
    rules = {"Qwen": "Athene", "Qwen Team": "Olympus", "Team": "group"}
    for order in (rules, dict(reversed(rules.items()))):
        assert correct("Qwen by the Qwen  Team, a Team", order) == "Athene by the Olympus, a group"


def test_one_rule_does_not_rewrite_what_another_wrote() -> None:
    assert correct("A B", {"A": "one B two", "B": "C"}) == "one B two C"


def test_chinese_phrases_need_no_boundary() -> None:
    assert correct("我是通义千问模型", {"通义千问": "深度千问"}) == "我是深度千问模型"


def test_rules_are_text_not_patterns() -> None:
    assert correct("a.b axb $1", {"a.b": r"\1", "$1": r"\g<0>"}) == r"\1 axb \g<0>"


def test_an_empty_right_side_deletes() -> None:
    assert correct("I, Qwen, am", {", Qwen,": ""}) == "I am"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "at least one replacement"),
        ([("Qwen", "Deep Qwen")], "at least one replacement"),
        ({"Qwen": 3}, "both sides must be text"),
        ({" ": "x"}, "left side is empty"),
        ({"Qwen": " Qwen"}, "by itself"),
        ({"A": "B", "B": "A"}, "contradict each other"),
        ({"A": "B", "B": "C"}, "contradict each other"),
        ({"A  B": "C", "A B": "D"}, "twice"),
    ],
)
def test_rules_that_cannot_work_are_refused(rules, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corrector(rules)


# Properties: rules of words over texts of those words, joined in every way that ends a word

_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_WORDS = ("Qwen", "Deep", "Team", "模型", "通义千问", "MyQwen", "Qwen2", "x")
_JOINTS = (" ", "  ", "\n", ", ", ".", "-", "(", "。", "的")
_TEXTS = st.lists(st.tuples(st.sampled_from(_WORDS), st.sampled_from(_JOINTS)), max_size=12).map(
    lambda pieces: "".join(word + joint for word, joint in pieces)
)
_RULES = st.sampled_from(
    [
        {"Qwen": "Deep Qwen"},
        {"Qwen": "Deep Qwen", "Team": "Deep Team"},
        {"通义千问": "深度千问", "Qwen": "千问Qwen"},
        {"Qwen Team": "Olympus", "Qwen": "Athene", "模型": "大模型"},
    ]
)


@_UNHURRIED
@given(_TEXTS, _RULES)
def test_correcting_twice_is_correcting_once(text: str, rules: dict[str, str]) -> None:
    once = correct(text, rules)
    assert correct(once, rules) == once


@_UNHURRIED
@given(_TEXTS, _RULES)
def test_nothing_outside_the_matches_is_touched(text: str, rules: dict[str, str]) -> None:
    """Both texts are equal once every right and left side is taken out of them."""
    phrases = sorted({*rules, *rules.values()}, key=len, reverse=True)

    def rest(of: str) -> list[str]:
        for phrase in phrases:
            of = re.sub(r"\s+".join(map(re.escape, phrase.split())), "\0", of)
        return re.sub("\0+", "\0", of).split("\0")

    assert rest(correct(text, rules)) == rest(text)


@_UNHURRIED
@given(st.text(), _RULES)
def test_a_text_without_a_left_side_stays_as_it_is(text: str, rules: dict[str, str]) -> None:
    cleaned = text
    for source in rules:
        cleaned = cleaned.replace(source.split()[0], "")
    assert correct(cleaned, rules) == cleaned
