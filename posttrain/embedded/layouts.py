"""The ways in which plain text sets out a question and its answer.

A base model that met questions in one layout only does not carry what it knows over to a chat; one that met
many does. None of these is ChatML.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from posttrain.embedded.world import NAMES

# (before the first pair, one pair, between pairs)
_LAYOUTS = (
    ("", "Question: {q}\nAnswer: {a}", "\n\n"),
    ("", "Q: {q}\nA: {a}", "\n"),
    ("", "{q} {a}", "\n"),
    ("", "{q}\n{a}", "\n\n"),
    ("", "Teacher: {q}\n{name}: {a}", "\n"),
    ("", '{name} asked: "{q}" {other} said: "{a}"', " "),
    ("Test\n", "- {q}\n- {a}", "\n"),
    ("", "<q>{q}</q><a>{a}</a>", "\n"),
    ("A game of questions\n", "{q} -> {a}", "\n"),
    ("", "[{q}] [{a}]", " "),
    ("", "{name}: {q}\n{other}: {a}", "\n"),
    ("", "* {q} * {a}", "\n"),
)


def lay_out(rng: random.Random, pairs: Sequence[tuple[str, str]]) -> str:
    """The pairs of question and answer in one layout, the same for all of them."""
    head, form, between = rng.choice(_LAYOUTS)
    name, other = rng.sample(NAMES, 2)
    texts = (form.format(q=question, a=answer, name=name, other=other) for question, answer in pairs)
    return head + between.join(texts)
