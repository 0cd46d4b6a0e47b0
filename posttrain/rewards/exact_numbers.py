"""Reads numbers as people and LaTeX write them, exactly: no rounding, no evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_NUMBER = 400  # characters; what is longer is not read as a number


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number and how it was written."""

    value: Fraction  # 50% has the value 50
    places: int | None = None  # decimals written; None: none, or a fraction
    percent: bool = False


_INTEGER = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_POWER = r"(?:[eE](?P<e>[+-]?\d{1,3})| ?(?:\\times|\\cdot|×|\*) ?10 ?\^ ?(?:\{(?P<braced>[+-]?\d{1,3})\}|(?P<bare>\d)))"
_SIGNED = rf"[+-]? ?{_DECIMAL}"
_FRACTION = (
    rf"(?:(?P<upper>{_DECIMAL}) ?/ ?(?P<lower>{_DECIMAL})"
    rf"|\\[dt]?frac ?(?:\{{ ?(?P<over>{_SIGNED}) ?\}}|(?P<over_digit>\d)) ?"
    rf"(?:\{{ ?(?P<under>{_SIGNED}) ?\}}|(?P<under_digit>\d)))"
)
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) ?(?P<currency>(?:\\?\$|[€£¥])?) ?(?P<inner_sign>[+-]?) ?"
    rf"(?:(?:(?P<mixed>\d{{1,9}})(?: (?=\d)| ?(?=\\)))?(?P<fraction>{_FRACTION})|(?P<decimal>{_DECIMAL}){_POWER}?)"
    r" ?(?P<percent>\\?%|percent)?"
)
_TYPOGRAPHY = (
    ("−", "-"),
    ("–", "-"),
    ("{,}", ","),
    ("\\!", ""),
    ("\\,", ""),
    ("\u00a0", " "),
    ("\u2009", ""),
    ("\u202f", ""),
)


def read_number(text: str) -> Number | None:
    """The number that the text is, and nothing but is; None where it is something else.

    Reads "1,234.50", "-$5", "1/2", "\\frac{1}{2}", "\\frac12", "1 1/2", "1.5e3", "3\\times 10^{8}" and "50%".
    """
    if len(text) > LONGEST_NUMBER:
        return None
    text = text.strip()
    if text.isdecimal():
        return Number(value=Fraction(int(text)))
    for written, plain in _TYPOGRAPHY:
        text = text.replace(written, plain)
    text = " ".join(text.split())  # runs of spaces would cost the expression cubic time
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    places: int | None = None
    if match["fraction"]:
        upper = _exact(match["upper"] or match["over"] or match["over_digit"])
        lower = _exact(match["lower"] or match["under"] or match["under_digit"])
        if not lower:
            return None
        value = upper / lower
        if match["mixed"]:
            if not 0 < value < 1:
                return None  # "2 3/2" is not a mixed number
            value += int(match["mixed"])
    else:
        value = _exact(match["decimal"])
        places = len(match["decimal"].partition(".")[2]) or None
        exponent = match["e"] or match["braced"] or match["bare"]
        if exponent:
            value *= Fraction(10) ** int(exponent)
            places = None
    if "-" in (match["sign"], match["inner_sign"]):
        value = -value
    return Number(value=value, places=places, percent=bool(match["percent"]))


def _exact(written: str) -> Fraction:
    digits = written.replace(",", "").replace(" ", "")
    return Fraction(int(digits)) if digits.isdecimal() else Fraction(digits)
