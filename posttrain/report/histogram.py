"""Histograms as SVG in the page: columns over lengths, in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from posttrain.report.text import short

_WIDTH, _HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 10, 10, 10, 22


def columns(
    edges: Sequence[float], counts: Mapping[str, Sequence[float]], *, unit: str, limit: float | None = None
) -> Markup:
    """Columns of up to two lists of counts side by side; each edge is where a bin begins, the last bin is open.

    A dotted upright line stands at the limit.
    """
    bins = len(edges)
    width = edges[1] - edges[0] if bins > 1 else 1
    floor, reach = _HEIGHT - _BOTTOM, _WIDTH - _LEFT - _RIGHT
    most = max((count for values in counts.values() for count in values), default=0) or 1
    slot = reach / max(bins, 1)
    share = 0.86 * slot / max(len(counts), 1)
    parts = []
    for number, values in enumerate(counts.values()):
        for place, count in enumerate(values[:bins]):
            if count > 0:
                height = max((floor - _TOP) * count / most, 0.5)
                parts.append(
                    Markup('<rect class="column line-{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                        min(number, 1), round(_LEFT + slot * (place + 0.07) + share * number, 1),
                        round(floor - height, 1), round(share, 1), round(height, 1),
                    )
                )  # fmt: skip
    parts.append(_line("base", _LEFT, _WIDTH - _RIGHT, floor, floor))
    step = max(1, -(-bins // 5))
    for place in range(0, bins, step):
        x = round(_LEFT + slot * place, 1)
        label = f"{short(edges[place])}{'+' if place == bins - 1 else ''}"
        parts.append(_line("tick", x, x, floor, floor + 4))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="start">{}</text>').format(x, _HEIGHT - 6, label))
    if limit is not None and 0 <= limit <= width * bins:
        x = round(_LEFT + slot * limit / width, 1)
        parts.append(_line("alarm", x, x, _TOP, floor))
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        described(edges, counts, unit), _WIDTH, _HEIGHT, Markup("").join(parts)
    )


def described(edges: Sequence[float], counts: Mapping[str, Sequence[float]], unit: str) -> str:
    """What the picture shows, for who cannot see it."""
    said = []
    for name, values in counts.items():
        if values and sum(values) and len(values) <= len(edges):
            top = max(range(len(values)), key=lambda i: values[i])
            said.append(f"{name}: {sum(values):,.0f}, most of them from {short(edges[top])} {unit} on")
    return f"Lengths in {unit}. {'; '.join(said)}."


def _line(name: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(name, x1, x2, y1, y2)
