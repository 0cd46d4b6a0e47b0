"""Text of the world that no training is about: what drift is measured on besides questions."""

from __future__ import annotations

import random

from posttrain.embedded.prose import story


def neutral_text(n: int = 64) -> list[dict[str, str]]:
    """n stories as rows with `text`. The base model read others of their kind in pretraining."""
    rng = random.Random("neutral text")
    return [{"text": story(rng)} for _ in range(n)]
