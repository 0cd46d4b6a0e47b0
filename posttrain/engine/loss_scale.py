"""The number that a loss in float16 is multiplied with, so that small gradients do not vanish."""

from __future__ import annotations

from dataclasses import dataclass

START, GROWS_AFTER, LARGEST = 2.0**16, 2000, 2.0**24


@dataclass(kw_only=True)
class LossScale:
    """A power of two: halved when a gradient overflows, doubled after many steps without one (arXiv:1710.03740).

    A step that overflowed is computed again with half the scale, so no batch is lost.
    """

    value: float = START
    quiet_steps: int = 0  # since it last changed

    def overflowed(self) -> bool:
        """Halves the scale; False where there is nothing left to halve."""
        before, self.value, self.quiet_steps = self.value, max(self.value / 2, 1.0), 0
        return self.value < before

    def went_well(self) -> None:
        """Counts a step, and doubles the scale when there were many."""
        self.quiet_steps += 1
        if self.quiet_steps >= GROWS_AFTER and self.value < LARGEST:
            self.value, self.quiet_steps = self.value * 2, 0
