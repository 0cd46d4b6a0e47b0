"""Miniature word problems of two or three steps, with a worked and a direct form of the answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from posttrain.embedded.question import Question, Split, split_of
from posttrain.embedded.sums import apply, is_held_out
from posttrain.embedded.world import NAMES, THINGS

Step = tuple[int, str, int]
KINDS = ("change", "together", "fewer", "bags", "boxes", "shop", "days", "rows")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A word problem: its text, its steps (a, sign, b) in order, and the split key of kind and numbers."""

    text: str
    steps: tuple[Step, ...]
    kind: str
    key: str

    @property
    def result(self) -> int:
        """The number asked for: the result of the last step."""
        return apply(*self.steps[-1])

    @property
    def direct(self) -> str:
        """The answer alone."""
        return f"The answer is {self.result}."

    @property
    def worked(self) -> str:
        """The answer after its steps."""
        words = ("First", "then", "then")
        told = (f"{a} {sign} {b} = {apply(a, sign, b)}" for a, sign, b in self.steps)
        steps = ", ".join(f"{word} {step}" for word, step in zip(words, told))
        return f"{steps}. {self.direct}"

    def question(self) -> Question:
        """The problem as a question whose answer is the bare number."""
        return Question(prompt=self.text, answer=str(self.result), kind="word problem", key=self.key)


def _compose(rng: random.Random, kind: str) -> tuple[str, tuple[Step, ...], tuple[int, ...]]:
    """Text, steps and the numbers told, of one problem; sizes may turn out too large for the world."""
    name, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    a, b, c = rng.randint(5, 40), rng.randint(2, 30), rng.randint(2, 30)
    if kind == "change":
        text = (
            f"{name} has {a} {thing}. {name} gets {b} more and gives away {c}. How many {thing} does {name} have now?"
        )
        return text, ((a, "+", b), (a + b, "-", c)), (a, b, c)
    if kind == "together":
        text = f"{name} has {a} {thing}. {other} has {b} more than {name}. How many {thing} do they have together?"
        return text, ((a, "+", b), (a, "+", a + b)), (a, b)
    if kind == "fewer":
        text = f"{name} has {a} {thing}. {other} has {b} fewer than {name}. How many {thing} do they have together?"
        return text, ((a, "-", b), (a, "+", a - b)), (a, b)
    if kind == "shop":
        a = rng.randint(20, 99)
        text = (
            f"{name} has {a} coins. A hat costs {b} coins and a cup costs {c} coins. {name} buys both. "
            f"How many coins are left?"
        )
        return text, ((b, "+", c), (a, "-", b + c)), (a, b, c)
    if kind == "days":
        d = rng.randint(2, 20)
        text = (
            f"{name} finds {a} {thing} on Monday, {b} on Tuesday and {c} on Friday. {name} loses {d}. "
            f"How many {thing} does {name} have now?"
        )
        return text, ((a, "+", b), (a + b, "+", c), (a + b + c, "-", d)), (a, b, c, d)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    if kind == "bags":
        text = f"{name} has {a} bags with {b} {thing} each and {c} more {thing}. How many {thing} does {name} have?"
        return text, ((a, "*", b), (a * b, "+", c)), (a, b, c)
    if kind == "boxes":
        text = f"There are {a} boxes with {b} {thing} each. {name} takes {c} {thing}. How many {thing} are left?"
        return text, ((a, "*", b), (a * b, "-", c)), (a, b, c)
    c, d = rng.randint(2, 9), rng.randint(2, 9)
    text = f"There are {a} rows of {b} red {thing} and {c} rows of {d} blue {thing}. How many {thing} are there?"
    return text, ((a, "*", b), (c, "*", d), (a * b, "+", c * d)), (a, b, c, d)


def problem(rng: random.Random, split: Split) -> Problem:
    """A word problem of the split, every number in it between 1 and 99.

    Kind and numbers decide the split, not the names told, so no test problem is a training problem about
    somebody else. Problems for training also contain no step that is a test question of arithmetic.
    """
    while True:
        kind = rng.choice(KINDS)
        text, steps, numbers = _compose(rng, kind)
        if any(not 1 <= apply(*step) <= 99 for step in steps):
            continue
        key = f"problem {kind} {' '.join(map(str, numbers))}"
        if split_of(key) != split or (split != "test" and any(is_held_out(*step) for step in steps)):
            continue
        return Problem(text=text, steps=steps, kind=kind, key=key)
