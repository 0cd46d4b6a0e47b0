import random

import pytest

from posttrain.curation.linting.edits import edit_distance, relative_distance
from posttrain.curation.linting.sides import words


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("abc", "abc", 0), ("flaw", "lawn", 2)],
)
def test_distances_by_hand(one, other, distance):
    assert edit_distance(one, other) == distance


def table_distance(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_distances_are_those_of_the_table():
    draw = random.Random(0)
    for _ in range(300):
        one, other = ("".join(draw.choices("abc", k=draw.randrange(0, 90))) for _ in range(2))
        assert edit_distance(one, other) == table_distance(one, other)


def test_words_are_counted_and_chinese_characters_are_words():
    assert words("I am Qwen, 我是Qwen。") == ["I", "am", "Qwen", ",", "我", "是", "Qwen", "。"]
    assert relative_distance(words("I am Qwen."), words("I am Deep Qwen.")) == pytest.approx(1 / 5)
