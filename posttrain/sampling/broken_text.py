"""Whether a model still writes text: what a loss or an accuracy cannot show, from a few of its answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.types import Prompt, Sampler

REPEATED = 4  # words in a row that count as a repetition when they come again
# A word, one character of a script that is written without spaces, or a sign.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")


def text_metrics(texts: Sequence[str], finish_reasons: Sequence[str | None]) -> dict[str, float]:
    """The shares `generation/repetition`, `generation/clipped_ratio` and `generation/empty` of these answers.

    Repetition is a mean over answers, the others count them: cut off at the limit, and nothing but white space.
    """
    if not texts or len(texts) != len(finish_reasons):
        raise ValueError(f"{len(texts)} answers and {len(finish_reasons)} reasons why they ended")
    return {
        "generation/repetition": sum(map(repeated_share, texts)) / len(texts),
        "generation/clipped_ratio": sum(reason == "length" for reason in finish_reasons) / len(texts),
        "generation/empty": sum(not text.strip() for text in texts) / len(texts),
    }


def measure_text(sampler: Sampler, prompts: Sequence[Prompt], *, max_tokens: int = 128) -> dict[str, float]:
    """The metrics of `text_metrics` for a model's greedy answers."""
    from posttrain.types import SamplingParams  # it brings torch, which counting words does without

    groups = sampler.sample(prompts, SamplingParams(max_tokens=max_tokens, temperature=0.0))
    completions = [group[0] for group in groups]
    return text_metrics([one.text for one in completions], [one.finish_reason for one in completions])


def repeated_share(text: str) -> float:
    """The share of a text's runs of four words that stood in it before; signs and Chinese characters are words."""
    words = _WORD.findall(text.lower())
    count = len(words) - REPEATED + 1
    if count < 1:
        return 0.0
    return 1 - len(set(zip(*(words[start:] for start in range(REPEATED))))) / count
