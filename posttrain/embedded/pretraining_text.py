"""The pretraining text: an endless, seeded stream of documents of the world."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from posttrain.embedded import lists, problems, prose, sums, world
from posttrain.embedded.layouts import lay_out

Pair = tuple[str, str]


def _fact_pair(rng: random.Random) -> Pair:
    fact = rng.choice(world.facts())
    answer = rng.choice(fact.statements) if rng.random() < 0.15 else fact.answer
    return rng.choice(fact.questions), answer


def _problem_pair(rng: random.Random) -> Pair:
    problem = problems.problem(rng, "pretraining")
    return problem.text, problem.worked if rng.random() < 0.85 else problem.direct


def _list_pair(rng: random.Random) -> Pair:
    question = lists.question(rng, "pretraining")
    return question.prompt, question.answer


def _arithmetic_pair(rng: random.Random) -> Pair:
    question = sums.question(rng, "pretraining")
    return question.prompt, question.answer


def _compare_pair(rng: random.Random) -> Pair:
    question = sums.comparison(rng, "pretraining")
    return question.prompt, question.answer


def _passage_pair(rng: random.Random) -> Pair:
    question = prose.passage(rng)
    return question.prompt, question.answer


# What a pair of question and answer is about, and how often.
_PAIRS: tuple[tuple[Callable[[random.Random], Pair], float], ...] = (
    (_fact_pair, 0.34),
    (_arithmetic_pair, 0.26),
    (_problem_pair, 0.16),
    (_list_pair, 0.14),
    (_compare_pair, 0.07),
    (_passage_pair, 0.03),
)


def _questions(rng: random.Random) -> str:
    """Questions with answers in one layout; one document in three mixes its subjects."""
    makers, weights = zip(*_PAIRS)
    mixed = rng.random() < 0.35
    maker = rng.choices(makers, weights)[0]
    if maker is _problem_pair and not mixed:
        return lay_out(rng, [_problem_pair(rng)])
    pairs = []
    for _ in range(rng.randint(1, 4)):
        pairs.append((rng.choices(makers, weights)[0] if mixed else maker)(rng))
        if len(pairs[-1][0]) > 100:
            break
    return lay_out(rng, pairs)


def _statements(rng: random.Random) -> str:
    chosen = rng.choices(world.facts(), k=rng.randint(2, 5))
    return " ".join(rng.choice(fact.statements) for fact in chosen)


def _equations(rng: random.Random) -> str:
    return sums.table_lines(rng, rng.randint(3, 7))


_DOCUMENTS: tuple[tuple[Callable[[random.Random], str], float], ...] = (
    (_questions, 0.72),
    (_statements, 0.06),
    (_equations, 0.07),
    (prose.story, 0.045),
    (prose.chat_log, 0.05),
    (prose.about_qwen, 0.03),
    (prose.about_places, 0.025),
)


def documents(seed: int) -> Iterator[str]:
    """The documents of the seed, without end; the first n are the same whatever is taken after them."""
    rng = random.Random(f"pretraining {seed}")
    makers, weights = zip(*_DOCUMENTS)
    while True:
        yield rng.choices(makers, weights)[0](rng)
