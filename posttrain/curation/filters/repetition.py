"""Answers that go round in circles."""

from __future__ import annotations

from posttrain.curation.filters.length import Judge
from posttrain.curation.filters.spoken import Spoken


def not_repeating(most: float) -> Judge:
    """A judge of rows with an answer in which more than this share of the runs of four words stood before."""
    from posttrain.sampling.broken_text import repeated_share

    def judge(said: Spoken) -> str | None:
        for text in said.answers:
            share = repeated_share(text)
            if share > most:
                return f"{share:.0%} of the runs of four words come again, more than {most:.0%}"
        return None

    return judge
