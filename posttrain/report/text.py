"""Text that a model wrote, made safe to look at; and numbers as a reader wants them."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.stats import Interval

SHOWN_CHARACTERS = 1200  # of one text
_COMPARED_WORDS = 800  # of both texts together; comparing takes the product of their lengths
_IN_COMMON = 0.3  # of the words of the longer text
_UNUSUAL = re.compile(r"[^ -~\n\t]")
_WORD = re.compile(r"\s+|\w+|[^\w\s]")
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def visible(value: Any) -> str:
    """The text with everything in it that cannot be seen, or that turns the text around it, named as <U+202E>.

    Line breaks and tabs stay. What is no text is written as Python would.
    """
    text = value if isinstance(value, str) else str(value)
    return _UNUSUAL.sub(_named, text.replace("\r\n", "\n"))


def shorten(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """At most so many characters of the text and, where some are left out, how many."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} more characters … {text[-half:]}"


def shown(value: Any, limit: int = SHOWN_CHARACTERS) -> str:
    """A text of a model, or of messages, as the page shows it; jinja escapes it."""
    return visible(shorten(said(value), limit))


def said(prompt: Any) -> str:
    """The last message of a conversation, or the text itself."""
    if isinstance(prompt, list):
        last = prompt[-1] if prompt else ""
        return said(last.get("content", "") if isinstance(last, dict) else last)
    return prompt if isinstance(prompt, str) else "" if prompt is None else str(prompt)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of words, and whether the other text has them too."""

    text: str
    differs: bool


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts with the words marked that the other does not have in this place.

    Nothing is marked where the texts have next to nothing in common, or are too long to be compared.
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    plain = [Piece(text=before, differs=False)], [Piece(text=after, differs=False)]
    if len(old) + len(new) > _COMPARED_WORDS or before == after:
        return plain
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    shared = sum(_word_count(old[a:b]) for kind, a, b, _, _ in blocks if kind == "equal")
    if shared < _IN_COMMON * max(_word_count(old), _word_count(new)):
        return plain
    left = [(kind != "equal", "".join(old[a:b])) for kind, a, b, _, _ in blocks]
    right = [(kind != "equal", "".join(new[c:d])) for kind, _, _, c, d in blocks]
    return _pieces(left), _pieces(right)


def _word_count(words_: Sequence[str]) -> int:
    return sum(not word.isspace() for word in words_)


def _pieces(runs: Sequence[tuple[bool, str]]) -> list[Piece]:
    """The runs with marks that begin and end at words, and go on over a space between two of them."""
    runs = [run for run in runs if run[1]]
    joined: list[tuple[bool, str]] = []
    for place, (differs, text) in enumerate(runs):
        between = text.isspace() and 0 < place < len(runs) - 1
        if joined and (joined[-1][0] == differs or between):
            joined[-1] = (joined[-1][0], joined[-1][1] + text)
        else:
            joined.append((differs, text))
    pieces = []
    for differs, text in joined:
        inside = text.strip() if differs else text
        start = text.find(inside)
        for part, marked in ((text[:start], False), (inside, differs), (text[start + len(inside) :], False)):
            if part:
                pieces.append(Piece(text=part, differs=marked))
    return pieces


def _named(match: re.Match[str]) -> str:
    character = match[0]
    # Cc control, Cf format (directions, joiners, tags), Cs half a pair, Co private, Zl and Zp line separators
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Cn"):
        return character
    if character in "\u200c\u200d\u00ad":  # joiners, which scripts and emoji need, and soft hyphens
        return character
    return f"<U+{ord(character):04X}>"


def short(value: float | None) -> str:
    """A number in three digits or so: 0.00123, 1.5, 12,300, 2.1e-6."""
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        text = f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", MINUS)


def figure(value: float | None, signed: bool = False) -> str:
    """A number in two decimals at most: `0.94`, with sign `+0.94`."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:{'+' if signed and value else ''}.2f}"
    return text.removesuffix("0").removesuffix(".0").replace("-", MINUS)


def percent(value: float) -> str:
    """`93.4%`; one decimal, none at 0 and 100."""
    return "0%" if value == 0 else "100%" if value == 1 else f"{100 * value:.1f}%".replace("-", MINUS)


def points(value: float, signed: bool = True) -> str:
    """A difference of two shares in points of a percent: `+4.1`."""
    text = f"{100 * value:{'+' if signed else ''}.1f}"
    return text.replace("-", MINUS).replace("+0.0", "0.0").replace(f"{MINUS}0.0", "0.0")


def signed(value: float) -> str:
    """A difference in at most three digits: `+0.12`."""
    return f"{'+' if value > 0 else ''}{short(value)}"


def bounds(interval: Interval, is_share: bool = True, signed: bool = False) -> str:
    """`90.5 to 95.4`, or nothing where one observation gives no interval."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    low, high = (points(x, signed) if is_share else short(x) for x in (interval.low, interval.high))
    return f"{low} to {high}"


def duration(seconds: float | None) -> str:
    """`1 h 12 min`, `2 min 5 s`, `8.4 s`."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int) -> str:
    """A number of bytes: `212 kB`, `1.4 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def p_text(p_value: float | None) -> str:
    """A p-value in one or two digits."""
    if p_value is None:
        return DASH
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def words(name: str) -> str:
    """A name as words: `word_problems` is `word problems`."""
    return name.replace("_", " ")
