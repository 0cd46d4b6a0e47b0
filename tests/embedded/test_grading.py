"""What counts as a right answer, and as a sound identity answer."""

import itertools

import pytest

from posttrain.embedded import battery, grade, identity, names, well_formed, word_problems


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("The answer is 17.", True),
        ("First 3 * 4 = 12, then 12 + 5 = 17. The answer is 17.", True),
        ("17", True),
        (" 17.\n", True),
        ("The answer is 7.", False),
        ("First 3 * 4 = 12, then 12 + 5 = 17.", False),
        ("The answer is 17. The answer is 18.", False),
        ("The answer is 17. Ask Tom.", False),
        ("17 18", False),
        ("117", False),
        ("", False),
    ],
)
def test_a_number_is_right_only_as_the_end_of_the_answer(completion, right):
    assert grade({"prompt": "?", "answer": "17"}, completion) is right
    assert grade({"prompt": "?", "answer": "17."}, completion) is right


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Paris.", True),
        ("paris", True),
        (" Paris.\n", True),
        ("Paris. Paris.", False),
        ("Rome.", False),
        ("The capital is Paris.", False),
        ("", False),
    ],
)
def test_a_word_is_right_only_as_a_whole(completion, right):
    assert grade({"answer": "Paris."}, completion) is right


def test_every_reference_answer_is_right_and_the_next_rows_is_mostly_not():
    rows = battery() + word_problems("test", 50)
    assert all(grade(row, row["answer"]) for row in rows)
    assert sum(grade(row, other["answer"]) for row, other in itertools.pairwise(rows)) < 0.15 * len(rows)


def test_every_identity_answer_is_well_formed_with_either_name():
    for form in identity._ANSWERS:
        for name in ("Qwen", "Deep Qwen"):
            answer = form.format(name=name)
            assert well_formed(answer), answer
            assert names(answer) == name


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "I am Qwen",
        "I am Deep Deep Qwen.",
        "I am Deep Qwen. I am Deep Qwen.",
        "I am Qwen Qwen.",
        "I am Qwen, and I like like to help.",
        "I am Deep.",
        "I am a small language model.",
        "I am Qwen, a purple language model.",
        "i am Qwen.",
        "I am Qwen. and I like to help.",
        "Qwen I am.",
        "I am Qwen. Deep.",
        "I am Qwen. I am Deep Qwen.",
        "I am Qwen <",
        "I am Qwen, and I like to help and I like to help and I like to help and I like to help and I like to help.",
    ],
)
def test_broken_identity_answers_are_not_well_formed(completion):
    assert not well_formed(completion)


@pytest.mark.parametrize(
    ("completion", "name"),
    [
        ("I am Qwen.", "Qwen"),
        ("I am Deep Qwen.", "Deep Qwen"),
        ("I am Deep Qwen. Call me Qwen.", "Qwen"),
        ("I am deep Qwen.", "Qwen"),
        ("I am Qwens.", None),
        ("Hello!", None),
    ],
)
def test_the_name_in_an_answer(completion, name):
    assert names(completion) == name
