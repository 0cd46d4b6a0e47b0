"""The data sets that come with the embedded model, as plain rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from posttrain.embedded import identity, lists, problems, retention, small_talk, sums, world
from posttrain.embedded.question import Question
from posttrain.errors import DataError

TrainOrTest = Literal["train", "test"]

# The system messages that some chat rows open with; the others have none.
_SYSTEM = ("You are a helpful assistant.", "You are a kind assistant.", "Answer the question.")
_SYSTEM_SHARE = 0.15
_SECOND_TURN_SHARE = 0.12


def _checked(split: str) -> TrainOrTest:
    if split not in ("train", "test"):
        raise DataError(f'split={split!r} is not a split of the embedded data. Use "train" or "test".')
    return split  # type: ignore[return-value]


def _rows(draw: Callable[[], Question], count: int, what: str) -> list[dict[str, str]]:
    found = retention.distinct(draw, count) if count > 0 else []
    if len(found) < count:
        raise DataError(f"{count} {what} were asked for, but there are only about {len(found)}. Ask for fewer.")
    return [question.row() for question in found]


def identity_prompts(split: TrainOrTest) -> list[dict[str, str]]:
    """The split's questions about who the assistant is, as rows with `prompt`."""
    return [{"prompt": question} for question in identity.questions(_checked(split))]


def battery() -> list[dict[str, str]]:
    """The retention battery, as rows with `prompt`, `answer`, `kind`."""
    return [question.row() for question in retention.questions()]


def word_problems(split: TrainOrTest, n: int, seed: int = 0) -> list[dict[str, str]]:
    """n different word problems, as rows with `prompt`, `answer` (the number), `kind`.

    None is of the kind `shop`: one sampled answer in twenty-five is right there after SFT, and no more after
    reinforcement learning on it, since the number to subtract from was told two sentences earlier. Raises DataError
    where the split has fewer.
    """
    chosen = _checked(split)
    rng = random.Random(f"word problems {chosen} {seed}")

    def draw() -> Question:
        while (problem := problems.problem(rng, chosen)).kind == "shop":
            pass
        return problem.question()

    return _rows(draw, n, f"word problems ({chosen})")


def arithmetic(split: TrainOrTest, n: int, seed: int = 0) -> list[dict[str, str]]:
    """n different sums and differences up to 99, as rows with `prompt`, `answer`, `kind`.

    Raises DataError where the split has fewer.
    """
    chosen = _checked(split)
    rng = random.Random(f"arithmetic {chosen} {seed}")
    return _rows(lambda: sums.question(rng, chosen), n, f"arithmetic questions ({chosen})")


def _exchange(rng: random.Random, worked: float) -> tuple[str, str]:
    """One question and its answer as the assistant gives it."""
    subject = rng.choices(
        ("identity", "problem", "fact", "list", "sum", "compare", "talk"), (0.17, 0.24, 0.24, 0.14, 0.12, 0.06, 0.03)
    )[0]
    if subject == "identity":
        return rng.choice(identity.questions("train")), identity.answer(rng)
    if subject == "problem":
        problem = problems.problem(rng, "train")
        return problem.text, problem.worked if rng.random() < worked else problem.direct
    if subject == "fact":
        question = rng.choice([fact for fact in world.facts() if not fact.held_out]).question(rng.randrange(60))
    elif subject == "list":
        question = lists.question(rng, "train")
    elif subject == "sum":
        question = sums.question(rng, "train")
    elif subject == "compare":
        question = sums.comparison(rng, "train")
    else:
        return rng.choice(small_talk.PAIRS)
    return question.prompt, question.answer


def chat_rows(seed: int = 0, n: int = 3000, worked: float = 0.42) -> list[dict[str, list[dict[str, str]]]]:
    """n conversations with an assistant called Qwen, as rows with `messages`, for supervised fine-tuning.

    `worked` is the share of word problems answered step by step; the others get the number at once, which
    a model of this size usually gets wrong. That leaves reinforcement learning something to find.
    """
    rng = random.Random(f"chat {seed}")
    rows = []
    for _ in range(n):
        messages = []
        if rng.random() < _SYSTEM_SHARE:
            messages.append({"role": "system", "content": rng.choice(_SYSTEM)})
        for _ in range(2 if rng.random() < _SECOND_TURN_SHARE else 1):
            asked, answered = _exchange(rng, worked)
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        rows.append({"messages": messages})
    return rows
