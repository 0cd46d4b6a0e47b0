"""How long the two sides of preference pairs are: a model that learns from longer answers learns to write long."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.curation.card import Card
from posttrain.stats.intervals import wilson


@dataclass
class Sides:
    """Lengths of chosen and rejected so far, in characters."""

    pairs: int = 0
    chosen: int = 0
    rejected: int = 0
    longer: int = 0  # pairs whose chosen side is the longer one
    shorter: int = 0

    def add(self, chosen: str, rejected: str) -> None:
        """Counts a pair."""
        self.pairs += 1
        self.chosen += len(chosen)
        self.rejected += len(rejected)
        self.longer += len(chosen) > len(rejected)
        self.shorter += len(chosen) < len(rejected)

    def write(self, card: Card, *, warn: bool = True) -> None:
        """Puts the lengths into the card, with a warning where chosen answers are longer than chance would have it."""
        if not self.pairs:
            return
        card.counts |= {
            "characters of chosen": round(self.chosen / self.pairs, 1),
            "characters of rejected": round(self.rejected / self.pairs, 1),
        }
        unequal = self.longer + self.shorter
        if not unequal:
            return
        share = wilson(self.longer, unequal)
        card.counts["chosen is longer"] = share.percent()
        if warn and share.low > 0.5 and self.chosen > self.rejected:
            card.notes.append(
                f"Warning: where the sides differ in length, chosen is the longer one in {share.percent()} of the pairs"
                f" ({self.chosen / self.pairs:,.0f} characters against {self.rejected / self.pairs:,.0f}). Training on "
                "them teaches length, too; leave out the longest, or balance the pairs, and see `posttrain data lint`."
            )
