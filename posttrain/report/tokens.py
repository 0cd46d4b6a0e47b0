"""A completion as text whose tokens are shaded by what PPO kept of them: their advantages, their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report.files import number

_LONGEST = 240  # tokens drawn of a completion
_STEPS = (0.5, 1.0, 2.0)  # sizes of a whitened advantage at which the shade grows darker
_SHADES = 3


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token's text, the class that shades it, and the number in words."""

    text: str
    shade: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Shaded:
    """One of the two drawings of a completion."""

    name: str  # "advantage" or "value"
    tokens: tuple[Token, ...]
    left_out: int  # tokens beyond those drawn


def shaded(line: Mapping[str, Any]) -> tuple[Shaded, ...]:
    """The drawings of a sample, or none where its line lacks the numbers or they do not fit its tokens."""
    texts = line.get("tokens")
    if not isinstance(texts, list) or not texts:
        return ()
    columns = [(name, shade, _numbers(line.get(key), len(texts))) for name, key, shade in _DRAWINGS]
    return tuple(_drawn(name, texts, values, shade(values)) for name, shade, values in columns if values)


def _numbers(given: Any, count: int) -> list[float]:
    if not isinstance(given, list) or len(given) != count:
        return []
    found = [number(value) for value in given]
    return [] if None in found else [value for value in found if value is not None]


def _drawn(name: str, texts: Sequence[Any], values: Sequence[float], shades: Sequence[str]) -> Shaded:
    tokens = [
        Token(text=text if isinstance(text, str) else str(text), shade=shade, note=f"{name} {value:.2f}")
        for text, shade, value in zip(texts[:_LONGEST], shades, values)
    ]
    return Shaded(name=name, tokens=tuple(tokens), left_out=max(0, len(texts) - _LONGEST))


def _by_advantage(values: Sequence[float]) -> list[str]:
    """Better than expected, or worse; in deviations of the rollout, which is what advantages are in."""
    steps = [sum(abs(value) >= step for step in _STEPS) for value in values]
    return [f"{'up' if value > 0 else 'down'}-{step}" if step else "" for value, step in zip(values, steps)]


def _by_value(values: Sequence[float]) -> list[str]:
    """The higher in the completion's own range, the darker."""
    low, high = min(values), max(values)
    if high - low < 1e-6:
        return [""] * len(values)
    steps = [round(_SHADES * (value - low) / (high - low)) for value in values]
    return [f"up-{step}" if step else "" for step in steps]


_DRAWINGS = (("advantage", "advantages", _by_advantage), ("value", "values", _by_value))
