"""Answers that say nothing."""

from __future__ import annotations

import re

from posttrain.curation.filters.length import Judge
from posttrain.curation.filters.spoken import Spoken

# What people and tools write where there is no answer; a number, a sign such as ">" and an emoji are answers.
_NOTHING = re.compile(
    r"[\s.…。,，;；:：_\-–—*#`'\"“”\u200b\u200e\u200f\ufeff]*"
    r"(?:<?(?:no ?(?:output|answer|response|input)|n/?a|none|null|nan|nil|tbd|todo|empty|无|空|暂无|没有答案)>?)?"
    r"[\s.…。\u200b\ufeff]*",
    re.IGNORECASE,
)


def not_empty() -> Judge:
    """A judge of rows with an answer that is empty, punctuation alone, or a placeholder such as N/A.

    Of a preference the rejected side counts as well. Rows without answers (prompts) are judged by what they say.
    """

    def judge(said: Spoken) -> str | None:
        texts = (*said.answers, *said.rejected)
        if not texts:
            return None if said.text.strip() else "the row says nothing"
        for number, text in enumerate(texts, start=1):
            if is_nothing(text):
                which = f"answer {number} of {len(texts)}" if len(texts) > 1 else "the answer"
                return f"{which} is empty" if not text.strip() else f"{which} is {text.strip()[:40]!r}"
        return None

    return judge


def is_nothing(text: str) -> bool:
    """Whether an answer says nothing."""
    return len(text) < 200 and _NOTHING.fullmatch(text) is not None
