"""A histogram of lengths, as text and as numbers that a report draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_BINS = 16
_WIDTH = 40  # characters of the longest bar


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many lengths fall between one edge and the next; the last bin holds everything longer too."""

    unit: str  # "characters" or "tokens"
    edges: tuple[int, ...]  # where each bin begins
    counts: Mapping[str, tuple[int, ...]]  # by what is measured: "answer", "chosen", "rejected", "row"
    limit: int | None = None  # max_length

    def as_dict(self) -> dict[str, Any]:
        """The histogram as plain values for JSON."""
        counts = {name: list(values) for name, values in self.counts.items()}
        return {"unit": self.unit, "edges": list(self.edges), "counts": counts, "limit": self.limit}

    def picture(self) -> str:
        """The histogram as SVG, in the colours of the page that it stands in."""
        from posttrain.report.histogram import columns

        return str(columns(self.edges, self.counts, unit=self.unit, limit=self.limit))

    def text(self) -> str:
        """Bars for a terminal."""
        lines = []
        last = len(self.edges) - 1
        labels = [
            f"{edge:,}+" if i == last else f"{edge:,}-{self.edges[i + 1] - 1:,}" for i, edge in enumerate(self.edges)
        ]
        width = max(map(len, labels))
        for name, counts in self.counts.items():
            most = max(counts, default=0) or 1
            lines.append(f"{name}, {self.unit}:")
            for i, (label, count) in enumerate(zip(labels, counts)):
                bar = "█" * round(_WIDTH * count / most) or ("▏" if count else "")
                limit = self.limit
                over = limit is not None and self.edges[i] <= limit < (self.edges[i + 1] if i < last else math.inf)
                lines.append(
                    f"  {label:>{width}} {bar:<{_WIDTH}} {count:,}{'  <- max_length' if over else ''}".rstrip()
                )
        return "\n".join(lines)


def histogram(lengths: Mapping[str, Sequence[int]], *, unit: str, limit: int | None = None) -> Histogram | None:
    """The histogram of some lists of lengths with the same bins; None where there is no length.

    Bins are of one round width, and as wide as it takes for 99 of 100 lengths to lie before the last one.
    """
    arrays = {name: np.asarray(values, dtype=np.int64) for name, values in lengths.items() if len(values)}
    if not arrays:
        return None
    together = np.concatenate(list(arrays.values()))
    reach = max(float(np.quantile(together, 0.99)), float(limit or 0)) + 1
    raw = reach / _BINS
    unit_width = 10 ** math.floor(math.log10(max(raw, 1)))
    width = next(int(unit_width * step) for step in (1, 2, 5, 10) if unit_width * step >= raw)
    bins = max(1, math.ceil(reach / width))
    counts = {
        name: tuple(int(n) for n in np.bincount(np.minimum(values // width, bins), minlength=bins + 1))
        for name, values in arrays.items()
    }
    longest = max(i for values in counts.values() for i, n in enumerate(values) if n)
    return Histogram(
        unit=unit,
        edges=tuple(width * i for i in range(longest + 1)),
        counts={name: values[: longest + 1] for name, values in counts.items()},
        limit=limit,
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, quartiles and most."""
    if not len(values):
        return {}
    quantiles = np.quantile(np.asarray(values, dtype=np.float64), [0, 0.25, 0.5, 0.75, 1])
    return {name: round(float(q), 4) for name, q in zip(("least", "25%", "median", "75%", "most"), quantiles)}
