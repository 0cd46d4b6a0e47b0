"""Whether two mathematical answers are equal: quickly and exactly where they are simple, else with math-verify.

math-verify evaluates what it is given, so `verified` may take for ever or all memory: it belongs into a process that
can be killed. Only its LaTeX parser is used; the one for plain expressions runs Python's `eval` on them.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

from posttrain.rewards.answers import unwrap
from posttrain.rewards.exact_numbers import Number, read_number

_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])")
_FRACTIONS = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_DEGREES = re.compile(r"\^(?:\\circ|\{\\circ\})(?![a-zA-Z])|°")
_WORDS = re.compile(r"(?:\\(?:text|textbf|mathrm)\{)?([^\W\d_]{3,}(?:[ -][^\W\d_]+)*)\}?")
_LIST = re.compile(r"(?P<open>\\\{|[(\[])?(?P<inside>[^()\[\]]*?)(?P<close>\\\}|[)\]])?")
_THOUSANDS = re.compile(r",\d{3}(?!\d)")  # in a list it is one number or two
_ROUNDED_PLACES = 6  # from so many decimals on, a decimal stands for the number that it rounds


def tidy(text: str) -> str:
    """The LaTeX without what changes nothing: spacing, sizes of brackets, kinds of fraction, degrees."""
    text = unwrap(_SPACES.sub(" ", text))
    text = _FRACTIONS.sub(r"\\frac", _SIZES.sub("", text))
    text = _DEGREES.sub("", text).replace("\\$", "$").replace("\\%", "%").replace("−", "-")
    return " ".join(text.split())


def decided(gold: str, answer: str) -> bool | None:
    """Whether the answer equals the right one, where that needs no algebra; None where it does.

    Decides equal texts, numbers, words, and tuples, intervals, sets and lists of numbers. Numbers are equal exactly, or
    where a decimal of at least six places is the other number rounded (0.333333 is 1/3, 0.333 is not). A percent sign
    that only one of them has may mean a hundredth: such pairs are equal or not decided.
    """
    gold, answer = tidy(gold), tidy(answer)
    if gold == answer or gold.replace(" ", "") == answer.replace(" ", ""):
        return True
    if not answer:
        return False
    if (right := read_number(gold)) and (given := read_number(answer)):
        return _equal(right, given)
    if word := _WORDS.fullmatch(gold):
        other = _WORDS.fullmatch(answer)
        return other is not None and other[1].casefold() == word[1].casefold()
    many_right, many_given = _several(gold), _several(answer)
    if many_right and many_given and many_right[0] == many_given[0]:
        return _equal_several(many_right[0], many_right[1], many_given[1])
    return None


def _equal(right: Number, given: Number) -> bool | None:
    if right.value == given.value:
        return True
    if right.percent != given.percent:
        return None
    return _rounds(right, given.value) or _rounds(given, right.value)


def _rounds(number: Number, exact: Fraction) -> bool:
    places = number.places or 0
    return places >= _ROUNDED_PLACES and bool(number.value) and abs(number.value - exact) * 2 * 10**places <= 1


def _several(text: str) -> tuple[str, list[Number]] | None:
    """The brackets ("" without) and the numbers between them; None for anything but numbers and for one without."""
    match = _LIST.fullmatch(text)
    if match is None or (match["open"] is None) != (match["close"] is None) or _THOUSANDS.search(text):
        return None
    brackets = (match["open"] or "") + (match["close"] or "")
    numbers = [number for part in match["inside"].split(",") if (number := read_number(part))]
    count = match["inside"].count(",") + 1
    return (brackets, numbers) if len(numbers) == count and (count > 1 or brackets) else None


def _equal_several(kind: str, right: list[Number], given: list[Number]) -> bool | None:
    if any(number.percent for number in (*right, *given)):
        return None
    if kind in ("", "\\{\\}"):  # order and repetition do not count
        if {number.value for number in right} == {number.value for number in given}:
            return True
        return None if any((number.places or 0) >= _ROUNDED_PLACES for number in (*right, *given)) else False
    return len(right) == len(given) and all(map(_equal, right, given))


def load_math_verify() -> None:
    """Imports math-verify and uses it once, so that no answer's time goes into its start. Raises ImportError."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it does not watch the time: we do
    verified("(x+1)^2", "x^2+2x+1")


def verified(gold: str, answer: str) -> bool:
    """Whether math-verify finds the answer equal to the right one. An answer that it cannot read is not."""
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]
    sides = []
    for text in (gold, answer):
        sides.append(parse(f"\\boxed{{{text}}}", latex, fallback_mode="no_fallback", parsing_timeout=None))
    return all(sides) and verify(sides[0], sides[1], timeout_seconds=None, raise_on_error=False)
