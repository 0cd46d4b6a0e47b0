"""Tasks on short lists of words: say them, turn them round, pick one."""

from __future__ import annotations

import random

from posttrain.embedded.question import Question, Split, capital, split_of
from posttrain.embedded.world import WORDS

_PLACES = {"first": 0, "second": 1, "last": -1}


def question(rng: random.Random, split: Split) -> Question:
    """A task on two to four words; the split follows from the words and their order."""
    while True:
        words = rng.sample(WORDS, rng.choice((2, 3, 3, 4)))
        listed = ", ".join(words)
        key = f"list {listed}"
        if split_of(key) == split:
            break
    task = rng.choice(("copy", "reverse", "pick"))
    if task == "copy":
        form, answer = rng.choice(("Repeat these words: {}.", "Say these words: {}.")), listed
    elif task == "reverse":
        form = rng.choice(("Say these words backwards: {}.", "Turn these words round: {}."))
        answer = ", ".join(reversed(words))
    else:
        place = rng.choice(tuple(_PLACES))
        form = rng.choice((f"Which word is {place}: {{}}?", f"Say the {place} word: {{}}."))
        answer = words[_PLACES[place]]
    return Question(prompt=form.format(listed), answer=capital(answer) + ".", kind=task, key=key)
