"""Exact answers: finds the final answer in a completion and compares it with the right one, numbers by value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any

from posttrain.errors import RewardError
from posttrain.rewards.columns import answer_column, completion_text
from posttrain.rewards.exact_numbers import read_number

if TYPE_CHECKING:  # worker processes import this module, which is quick without torch
    from posttrain.types import Reward

LONGEST_ANSWER = 10_000  # characters; what is longer is no final answer, and reading it would cost time

Finder = Callable[[str], str | None]

_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text
_BARE = re.compile(r"(?:\s+|(?=\d))((?:(?!\\[)\]])[^\s$])+)")
_PHRASE = re.compile(r"\b(?:final\s+answer\b[\s*_]*(?:is\b|:|=)?|answer\b[\s*_]*(?:is\b|:|=))[\s:*_]*", re.IGNORECASE)
_SENTENCE = re.compile(r"[^\n]*?(?=\.(?:\s|$)|\n|$)")
_LAST_NUMBER = re.compile(r"[-−]?\\?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?|\.\d+)")
_THINK_END = "</think>"


def boxed(text: str) -> str | None:
    """What the last `\\boxed{...}`, `\\fbox{...}` or `\\boxed 7` holds; None without one or where it is not closed."""
    start = max(
        (text.rfind(command) + len(command) for command in ("\\boxed", "\\fbox") if command in text), default=-1
    )
    if start < 0:
        return None
    rest = text[start : start + LONGEST_ANSWER]
    inner = rest.lstrip()
    if not inner.startswith("{"):
        bare = _BARE.match(rest)
        return bare[1].rstrip(".,;:") if bare else None
    depth = 0
    for brace in _BRACES.finditer(inner):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return inner[1 : brace.start()].strip()
    return None


def after(marker: str) -> Finder:
    """A function that gives the line after the last `marker` in a text, or None."""

    def find(text: str) -> str | None:
        start = text.rfind(marker)
        if start < 0:
            return None
        rest = text[start + len(marker) : start + len(marker) + LONGEST_ANSWER].lstrip()
        return rest.partition("\n")[0].strip() or None

    return find


def stated(text: str) -> str | None:
    """The rest of the sentence after the last "the answer is", "answer:" or "final answer", or None."""
    end = None
    for match in _PHRASE.finditer(text):
        end = match.end()
    if end is None:
        return None
    sentence = _SENTENCE.match(text[end : end + LONGEST_ANSWER])
    return (sentence[0].strip() or None) if sentence else None


def last_number(text: str) -> str | None:
    """The last number in a text, or None."""
    numbers = _LAST_NUMBER.findall(text[-LONGEST_ANSWER:])
    return numbers[-1] if numbers else None


def first_found(text: str, finders: Sequence[Finder]) -> str | None:
    """What the first of the finders that finds an answer finds."""
    for find in finders:
        if (answer := find(text)) is not None:
            return answer
    return None


_WRAPPINGS = (
    ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"), ('"', '"'),
    ("\\text{", "}"), ("\\textbf{", "}"), ("\\mathrm{", "}"), ("\\mathbf{", "}"), ("\\boxed{", "}"), ("{", "}"),
)  # fmt: skip
_UNIT = re.compile(
    r" ?(?:\\(?:text|textrm|mathrm)\{[^{}]*\}|\^ ?(?:\\circ|\{\\circ\})|°?[^\W\d_]+(?:[/. -]+[^\W\d_]+)*|°)"
    r"\.?(?:\^ ?(?:\{\d\}|\d)|[²³])?$"
)


def unwrap(text: str) -> str:
    """The answer without what only surrounds it: spaces, `$...$`, `**...**`, `\\text{...}`, a trailing period."""
    text = " ".join(text[:LONGEST_ANSWER].split())
    for _ in range(8):
        if text.isdecimal():
            break
        before = text
        text = text.strip("*_ ").rstrip(".,;: ")
        for left, right in _WRAPPINGS:
            if text.startswith(left) and text.endswith(right):
                inside = text[len(left) : len(text) - len(right)]
                if inside and right not in inside and left not in inside:
                    text = inside.strip()
        if text == before:
            break
    return text


def normalize_answer(text: str, *, strip_units: bool = False, ignore_case: bool = False) -> Fraction | str:
    """What two equal answers share: a number's exact value (a percent sign or currency does not count), else the text.

    `strip_units` drops what follows a number: "72 clips", "5\\text{ cm}^2".
    """
    text = unwrap(text)
    number = read_number(text)
    if number is None and strip_units and len(text) < 200 and (unit := _UNIT.search(text)):
        number = read_number(text[: unit.start()].strip("$ "))
    if number is not None:
        return number.value
    return text.casefold() if ignore_case else text


def right_answers(
    columns: Mapping[str, Any], column: str | None, finders: Sequence[Finder] = (), *, reward: str
) -> list[str | None]:
    """The right answer of each row as text, None where a row has none.

    A worked solution is reduced to its final answer where a finder, a box or GSM8K's "####" finds one.
    """
    golds: list[str | None] = []
    for row, gold in enumerate(answer_column(columns, column)):
        if gold is None or (isinstance(gold, float) and gold != gold):  # tables write a missing value as NaN
            golds.append(None)
        elif isinstance(gold, str):
            reduced = first_found(gold, (*finders, boxed, after("####")))
            golds.append((gold if reduced is None else reduced).strip() or None)
        elif isinstance(gold, Real) and not isinstance(gold, bool):
            golds.append(str(gold))
        else:
            raise RewardError(f"{reward}, row {row}: the right answer is a {type(gold).__name__}, not a text or number")
    return golds


def answer_of(completion: Any, finders: Sequence[Finder], *, after_think: bool) -> str | None:
    """The final answer of a completion; with `after_think` only what follows `</think>` counts."""
    text = completion_text(completion)
    if after_think:
        _, closed, text = text.rpartition(_THINK_END)
        if not closed:
            return None
    return first_found(text, finders)


def _exact(
    name: str, finders: Sequence[Finder], gold_finders: Sequence[Finder] = (), *, column: str | None,
    strip_units: bool, ignore_case: bool, after_think: bool,
) -> Reward:  # fmt: skip
    def key(text: str) -> Fraction | str:
        return normalize_answer(text, strip_units=strip_units, ignore_case=ignore_case)

    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        scores: list[float | None] = []
        for completion, gold in zip(
            completions, right_answers(columns, column, gold_finders, reward=name), strict=True
        ):
            answer = None if gold is None else answer_of(completion, finders, after_think=after_think)
            scores.append(None if gold is None else float(answer is not None and key(answer) == key(gold)))
        return scores

    reward.__name__ = name
    return reward


def boxed_answer(
    *, column: str | None = None, strip_units: bool = False, ignore_case: bool = False, after_think: bool = False
) -> Reward:
    """A reward: 1.0 where the last `\\boxed{...}` holds the right answer, 0.0 elsewhere, None without a right answer.

    The right answer is the column `ground_truth`, else `answer`, else `solution`, unless named. Numbers are compared by
    their exact value: 1,234.00 is 1234 and 1/2 is 0.5, while 0.333 is not 1/3; everything else as text.
    """
    return _exact(
        "boxed_answer",
        (boxed,),
        column=column,
        strip_units=strip_units,
        ignore_case=ignore_case,
        after_think=after_think,
    )


def marked_answer(
    marker: str = "####", *, column: str | None = None, strip_units: bool = False, ignore_case: bool = False,
    after_think: bool = False,
) -> Reward:  # fmt: skip
    """As `boxed_answer`, for the line after the last `marker`."""
    if not marker.strip():
        raise RewardError("marked_answer: the marker is empty; give the text that stands before the answer")
    find = (after(marker),)
    return _exact(
        "marked_answer", find, find, column=column, strip_units=strip_units, ignore_case=ignore_case,
        after_think=after_think,
    )  # fmt: skip


def final_answer(
    *, lenient: bool = False, column: str | None = None, strip_units: bool = False, ignore_case: bool = False,
    after_think: bool = False,
) -> Reward:  # fmt: skip
    """As `boxed_answer`, for a box, else the line after "####", else what follows "the answer is" or "answer:".

    `lenient` takes the last number of the text where there is none of these.
    """
    return _exact(
        "final_answer", final_finders(lenient=lenient), column=column, strip_units=strip_units, ignore_case=ignore_case,
        after_think=after_think,
    )  # fmt: skip


def final_finders(*, lenient: bool = False) -> tuple[Finder, ...]:
    """Where a final answer is looked for, in this order."""
    return (boxed, after("####"), stated, *((last_number,) if lenient else ()))
