"""An estimate and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

FLOOR = 0.15  # what a trial of seconds cannot see: the machine's other work, rows that are not like those tried


@dataclass(frozen=True, kw_only=True)
class Range:
    """An estimate with the interval that it is expected in."""

    estimate: float
    low: float
    high: float

    @classmethod
    def around(cls, estimate: float, relative: float) -> Range:
        """The estimate, a share of it to either side."""
        return cls(estimate=estimate, low=estimate * max(0.0, 1 - relative), high=estimate * (1 + relative))
