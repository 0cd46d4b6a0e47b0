"""The pictures of a report, as SVG in the page: dots with intervals, and curves.

They have no style of their own: the page's classes give the colours of both schemes. Horizontal places of dots are
percentages, so that these pictures are as wide as there is room, and as crisp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from posttrain.report.curves import Curve
from posttrain.report.text import MINUS, short
from posttrain.stats import Interval

_WIDTH, _HEIGHT = 320, 150  # of a curve
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 22
_PAD = 3.0  # percent of a dot's picture left free on either side
_MIDDLE = 14  # of a dot's picture

_Place = float | str


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from low to high, about so many."""
    if not high > low:
        return [low]
    wanted = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(wanted))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= wanted * 0.8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def reach(intervals: Sequence[Interval], *, zero: bool) -> tuple[float, float]:
    """A scale on which all of them lie; with zero, also that."""
    values = [v for i in intervals for v in (i.low, i.estimate, i.high) if math.isfinite(v)]
    values += [0.0] if zero else []
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.01, high + 0.01
    return low, high


def dot(interval: Interval, scale: tuple[float, float], *, tone: str, zero: bool, text: str) -> Markup:
    """A dot on its interval; `tone` is a class, `text` says the same in words."""
    parts = [_line("rail", "0", "100%", _MIDDLE, _MIDDLE)]
    if zero:
        x = _percent(0.0, scale)
        parts.append(_line("zero", x, x, 2, 2 * _MIDDLE - 2))
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        parts.append(_line("span", _percent(interval.low, scale), _percent(interval.high, scale), _MIDDLE, _MIDDLE))
    parts.append(_circle("dot", _percent(interval.estimate, scale), _MIDDLE, 4))
    return Markup('<svg class="bar {}" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        tone, text, 2 * _MIDDLE, Markup("").join(parts)
    )


def dot_axis(scale: tuple[float, float], *, is_share: bool, count: int = 4) -> Markup:
    """The ticks of such pictures, about so many, to stand below them."""
    parts = []
    for value in ticks(*scale, count):
        x = _percent(value, scale)
        whole = is_share and scale[1] - scale[0] > 0.05
        label = f"{100 * value:.0f}".replace("-", MINUS) if whole else short(100 * value if is_share else value)
        parts += [_line("tick", x, x, 0, 4), _label(x, 15, "middle", label)]
    return Markup('<svg class="axis" aria-hidden="true" width="100%" height="18">{}</svg>').format(
        Markup("").join(parts)
    )


def chart(curve: Curve, *, alarms: Sequence[float] = (), promoted: float | None = None) -> Markup:
    """A curve over the steps with axes, ticks and its last value; alarms and the promoted step as upright lines."""
    (x_low, x_high), (y_low, y_high) = _reach_of(curve)
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(step: float) -> float:
        return round(_LEFT + (right - _LEFT) * (step - x_low) / (x_high - x_low), 1)

    def y_of(value: float) -> float:
        return round(floor - (floor - _TOP) * (value - y_low) / (y_high - y_low), 1)

    parts = []
    for value in ticks(y_low, y_high, 3):
        y = y_of(value)
        parts += [_line("grid", _LEFT, right, y, y), _label(_LEFT - 6, y + 3.5, "end", short(value))]
    for step in ticks(x_low, x_high, 4):
        if step.is_integer():
            x = x_of(step)
            at_end = x > _WIDTH - 24
            parts.append(_line("tick", x, x, floor, floor + 4))
            parts.append(_label(min(x, _WIDTH - 2), _HEIGHT - 6, "end" if at_end else "middle", f"{step:,.0f}"))
    parts.append(_line("base", _LEFT, right, floor, floor))
    for name, steps in (("alarm", alarms), ("promoted", () if promoted is None else (promoted,))):
        inside = [x_of(step) for step in dict.fromkeys(steps) if x_low <= step <= x_high]
        parts += [_line(name, x, x, _TOP, floor) for x in inside]
    for number, line in enumerate(curve.lines):
        if len(line.points) > 1:
            path = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in line.points)
            parts.append(Markup('<polyline class="line line-{}" points="{}"/>').format(number, path))
        end = line.points[-1]
        parts.append(_circle(f"end line-{number}", x_of(end[0]), y_of(end[1]), 3.5))
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        described(curve), _WIDTH, _HEIGHT, Markup("").join(parts)
    )


def described(curve: Curve) -> str:
    """What a curve shows, for who cannot see it."""
    said = []
    for line in curve.lines:
        (first_step, first), (last_step, last) = line.points[0], line.points[-1]
        values = [value for _, value in line.points]
        name = f"{line.name}: " if len(curve.lines) > 1 else ""
        said.append(
            f"{name}{short(first)} at step {first_step:.0f}, {short(last)} at step {last_step:.0f}, "
            f"between {short(min(values))} and {short(max(values))}"
        )
    return f"{curve.title}. {'; '.join(said)}."


def _reach_of(curve: Curve) -> tuple[tuple[float, float], tuple[float, float]]:
    """The steps and the values that a chart shows."""
    points = [point for line in curve.lines for point in line.points]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    if y_high - y_low <= 1e-9 * max(abs(y_low), abs(y_high)):
        margin = abs(y_high) * 0.1 or 1.0
        y_low, y_high = y_low - margin, y_high + margin
    elif 0 < y_low < 0.35 * y_high:  # close enough to zero to show how far it is from it
        y_low = 0.0
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    return (x_low, x_high), (y_low, y_high)


def _line(name: str, x1: _Place, x2: _Place, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(name, x1, x2, y1, y2)


def _circle(name: str, x: _Place, y: float, radius: float) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(name, x, y, radius)


def _label(x: _Place, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _percent(value: float, scale: tuple[float, float]) -> str:
    low, high = scale
    place = (min(max(value, low), high) - low) / (high - low)
    return f"{_PAD + (100 - 2 * _PAD) * place:.2f}%"
