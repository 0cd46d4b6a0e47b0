"""Sums, differences and comparisons of whole numbers up to 99, split by the pair of numbers."""

from __future__ import annotations

import random

from posttrain.embedded.question import Question, Split, split_of

_SIGN_FORMS = (
    "What is {a} {sign} {b}?",
    "How much is {a} {sign} {b}?",
    "Work out {a} {sign} {b}.",
    "{a} {sign} {b} = ?",
)
_WORD_FORMS = ("What is {a} {word} {b}?", "How much is {a} {word} {b}?")
_WORD = {"+": "plus", "-": "minus", "*": "times"}
_COMPARE_FORMS = (
    "Which number is {word}, {a} or {b}?",
    "Which is {word}, {a} or {b}?",
    "Say the {word} number: {a} or {b}.",
)


def apply(a: int, sign: str, b: int) -> int:
    """The result of a + b, a - b or a * b."""
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def sum_key(a: int, sign: str, b: int) -> str:
    """The split key of a sum or difference; the order of a sum's terms does not matter."""
    if sign != "-" and a > b:
        a, b = b, a
    return f"arithmetic {a} {sign} {b}"


def is_held_out(a: int, sign: str, b: int) -> bool:
    """Whether the step is a test question of arithmetic, which no training text may contain.

    Products are exempt: the multiplication table has too few entries to hold any out.
    """
    return sign != "*" and split_of(sum_key(a, sign, b)) == "test"


def draw(rng: random.Random, split: Split) -> tuple[int, str, int]:
    """A sum or difference of the split, (a, sign, b), with operands from 1 and everything up to 99."""
    while True:
        sign = rng.choice("+-")
        if sign == "+":
            result = rng.randint(2, 99)
            a = rng.randint(1, result - 1)
            b = result - a
        else:
            a = rng.randint(2, 99)
            b = rng.randint(1, a)
        if split_of(sum_key(a, sign, b)) == split:
            return a, sign, b


def question(rng: random.Random, split: Split) -> Question:
    """A sum or difference asked in one of several wordings; the answer is the number and a full stop."""
    a, sign, b = draw(rng, split)
    form = rng.choice(_SIGN_FORMS + _WORD_FORMS)
    prompt = form.format(a=a, b=b, sign=sign, word=_WORD[sign])
    return Question(prompt=prompt, answer=f"{apply(a, sign, b)}.", kind="arithmetic", key=sum_key(a, sign, b))


def comparison(rng: random.Random, split: Split) -> Question:
    """Two different numbers up to 99, the larger or the smaller to be named."""
    while True:
        a, b = rng.sample(range(1, 100), 2)
        key = f"compare {min(a, b)} {max(a, b)}"
        if split_of(key) == split:
            break
    word, answer = rng.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    prompt = rng.choice(_COMPARE_FORMS).format(a=a, b=b, word=word)
    return Question(prompt=prompt, answer=f"{answer}.", kind="compare", key=key)


def table_lines(rng: random.Random, lines: int) -> str:
    """Lines of bare equations for pretraining, products included, none of them held out for a test."""
    rows = []
    for _ in range(lines):
        if rng.random() < 0.2:
            a, sign, b = rng.randint(2, 9), "*", rng.randint(2, 9)
        else:
            a, sign, b = draw(rng, "pretraining")
        rows.append(f"{a} {sign} {b} = {apply(a, sign, b)}")
    return rng.choice(("\n", ", ", ". ")).join(rows)
