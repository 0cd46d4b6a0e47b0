"""The retention battery: questions whose answers were learnt in pretraining and are never asked in chat data.

Three kinds of question are left out because a prototype of this size was too weak at them for gain or loss
to show: `upper` (write a word in capitals) and `spell` (say its letters), which ask for the letters inside
tokens, and `passage` (a question about a short text).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from posttrain.embedded import lists, sums, world
from posttrain.embedded.question import Question, hash_fraction

_ARITHMETIC = 50
_COMPARISONS = 40
_PER_LIST_TASK = 20


def distinct(draw: Callable[[], Question | None], count: int) -> list[Question]:
    """The first `count` questions drawn that are there and have a key of their own; None is drawn again."""
    found: dict[str, Question] = {}
    for _ in range(20 * count + 1000):
        if len(found) == count:
            break
        question = draw()
        if question is not None:
            found.setdefault(question.key, question)
    return list(found.values())


def _list_task(rng: random.Random, task: str) -> Question | None:
    question = lists.question(rng, "test")
    return question if question.kind == task else None


def questions() -> list[Question]:
    """The battery, the same every time: held-out facts, then test arithmetic, comparisons and list tasks."""
    rng = random.Random("battery")
    asked = [
        fact.question(int(hash_fraction(f"wording {fact.answer} {fact.questions[0]}") * 60))
        for fact in world.facts()
        if fact.held_out
    ]
    asked += distinct(lambda: sums.question(rng, "test"), _ARITHMETIC)
    asked += distinct(lambda: sums.comparison(rng, "test"), _COMPARISONS)
    for task in ("copy", "reverse", "pick"):
        asked += distinct(partial(_list_task, rng, task), _PER_LIST_TASK)
    return asked
