"""The text of single tokens, for people who look at numbers beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def token_texts(tokenizer: Any) -> Callable[[Sequence[int]], list[str]]:
    """A function from tokens to their texts, which joined are the text, but for characters of several tokens.

    A token is decoded after another one, for many tokenizers drop the space before the first.
    """
    known: dict[int, str] = {}
    (before, *_) = tokenizer("a", add_special_tokens=False).input_ids
    start = len(tokenizer.decode([before]))

    def texts(tokens: Sequence[int]) -> list[str]:
        for token in tokens:
            if token not in known:
                known[token] = tokenizer.decode([before, token], clean_up_tokenization_spaces=False)[start:]
        return [known[token] for token in tokens]

    return texts
