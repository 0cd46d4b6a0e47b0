"""The small base model that ships with posttrain, and the data sets of the world it was trained on.

Nothing here imports torch; `python -m posttrain.embedded.build` makes the model again.
"""

from __future__ import annotations

from pathlib import Path

from posttrain.embedded.grading import grade
from posttrain.embedded.identity import names, well_formed
from posttrain.embedded.neutral import neutral_text
from posttrain.embedded.sets import arithmetic, battery, chat_rows, identity_prompts, word_problems

__all__ = [
    "arithmetic",
    "battery",
    "chat_rows",
    "grade",
    "identity_prompts",
    "model_path",
    "names",
    "neutral_text",
    "well_formed",
    "word_problems",
]


def model_path() -> str:
    """The directory of the shipped model, which transformers loads like any other."""
    return str(Path(__file__).parent / "model")
