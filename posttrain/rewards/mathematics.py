"""Mathematical equivalence as a reward: at sight where that decides, else math-verify in killable processes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from posttrain.errors import RewardError
from posttrain.rewards.answers import answer_of, boxed, final_finders, right_answers
from posttrain.rewards.equivalence import decided, load_math_verify, verified
from posttrain.rewards.workers import Workers
from posttrain.types import Reward, Unjudged

_NAME = "math_answer"
_MEMORY_MIB = 1024


def math_answer(
    *, timeout_s: float = 5.0, processes: int | None = None, only_boxed: bool = False, lenient: bool = False,
    column: str | None = None, after_think: bool = False,
) -> Reward:  # fmt: skip
    """A reward: 1.0 where the final answer equals the right one as mathematics, else 0.0; None without a right answer.

    The answer is the last box, else the line after "####", else what follows "the answer is" or "answer:" (`lenient`:
    else the last number); with `only_boxed` it is the last box alone. The right answer is the column `ground_truth`,
    else `answer`, else `solution`, unless named. What is not decided at sight goes to math-verify. Where that takes
    longer than `timeout_s`, too much memory, or dies, nothing is known about the completion and it is Unjudged.

    Raises RewardError where math-verify is needed and is not installed.
    """
    if only_boxed and lenient:
        raise RewardError(f"{_NAME}: only_boxed and lenient contradict each other; give one of them")
    if importlib.util.find_spec("math_verify") is None:
        raise RewardError(f'{_NAME} needs math-verify, which is not installed: pip install "posttrain[math]"')
    finders = (boxed,) if only_boxed else final_finders(lenient=lenient)
    workers = Workers(
        verified,
        timeout_s=timeout_s,
        processes=processes,
        memory_mib=_MEMORY_MIB,
        unpack=True,
        prepare=load_math_verify,
    )

    def reward(completions: Sequence[Any], **columns: Any) -> list[float | Unjudged | None]:
        golds = right_answers(columns, column, reward=_NAME)
        pairs: list[tuple[str, str] | None] = []
        verdicts: dict[tuple[str, str], bool | Unjudged | None] = {}
        for completion, gold in zip(completions, golds, strict=True):
            answer = None if gold is None else answer_of(completion, finders, after_think=after_think)
            pair = None if gold is None or answer is None else (gold, answer)
            pairs.append(pair)
            if pair and pair not in verdicts:  # the answers of a group are often the same
                verdicts[pair] = decided(*pair)
        open_pairs = [pair for pair, verdict in verdicts.items() if verdict is None]
        verdicts.update(zip(open_pairs, workers.map(open_pairs), strict=True))
        scores: list[float | Unjudged | None] = []
        for gold, pair in zip(golds, pairs, strict=True):
            verdict = verdicts[pair] if pair else False
            scores.append(None if gold is None else verdict if isinstance(verdict, Unjudged) else float(bool(verdict)))
        return scores

    reward.__name__ = _NAME
    return reward
