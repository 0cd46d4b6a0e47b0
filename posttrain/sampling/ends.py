"""Where a completion ends, at a token or a text, and the text it then is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.chat import special_ids, stop_tokens

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are not a whole character


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer: the tokenizer's, its chat template's, and those the model's own settings name."""
    settings = model.generation_config
    known = settings.eos_token_id if settings is not None else None
    own = [] if known is None else [known] if isinstance(known, int) else list(known)
    return list(dict.fromkeys([*stop_tokens(tokenizer), *own]))


class Ends:
    """The tokens and texts that end a completion; a text is found across the borders of tokens, too."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self.tokens = end_tokens(model, tokenizer)
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._special = special_ids(tokenizer) if stop else set()
        # Every token that is part of a text holds at least a byte of it. Some more go before, as the first character
        # of what is decoded may be incomplete or lose its space.
        self._reach = max((len(text.encode()) for text in stop), default=0) + 5

    def at_text(self, tokens: Sequence[int]) -> bool:
        """Whether the last token completes one of the texts."""
        if not self._stop or int(tokens[-1]) in self._special:
            return False
        tail: list[int] = []
        for token in reversed(tokens):
            if int(token) not in self._special:
                tail.append(int(token))
                if len(tail) == self._reach:
                    break
        return any(text in self._decode(tail[::-1]) for text in self._stop)

    def text(self, tokens: Sequence[int], *, stopped: bool) -> str:
        """The text of a whole completion, without what `stopped` it."""
        if not stopped:
            return self._decode(tokens)
        text = self._decode(tokens[:-1] if tokens[-1] in self.tokens else tokens)
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def text_so_far(self, tokens: Sequence[int]) -> str:
        """As much of a completion's text as no later token changes."""
        text = self._decode(tokens).rstrip(_INCOMPLETE)
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        sizes = range(min(longest, len(text)), 0, -1)
        return text[: len(text) - next((n for n in sizes if any(s.startswith(text[-n:]) for s in self._stop)), 0)]

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))
