"""Length: words, characters and turns within limits, and tokens where a tokenizer is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from posttrain.curation.filters.spoken import Spoken
from posttrain.curation.filters.words import count_words

Judge = Callable[[Spoken], str | None]

# what is measured -> its value for a row; None where the row has no such part
MEASURES: Mapping[str, Callable[[Spoken], float | None]] = {
    "answer_words": lambda said: min(map(count_words, said.answers)) if said.answers else None,
    "answer_characters": lambda said: min(map(len, said.answers)) if said.answers else None,
    "prompt_words": lambda said: count_words(said.prompt) if said.prompt else None,
    "prompt_characters": lambda said: len(said.prompt) if said.prompt else None,
    "turns": lambda said: len(said.answers) if said.answers else None,
}
_LONGEST: Mapping[str, Callable[[Spoken], float | None]] = {
    "answer_words": lambda said: max(map(count_words, said.answers)) if said.answers else None,
    "answer_characters": lambda said: max(map(len, said.answers)) if said.answers else None,
}


def within(limits: Mapping[str, tuple[int | None, int | None]], tokenizer: str | None = None) -> Judge:
    """A judge of `limits`: what is measured -> least and most. Of several answers each must be within.

    `tokens` are those of all the row's texts, without what a chat template adds.
    """
    checks = [(name, least, most) for name, (least, most) in limits.items() if (least, most) != (None, None)]

    def judge(said: Spoken) -> str | None:
        for name, least, most in checks:
            if name == "tokens":
                low = high = _tokens(tokenizer)(said)
            else:
                low, high = MEASURES[name](said), _LONGEST.get(name, MEASURES[name])(said)
            noun = name.replace("_", " ")
            if low is not None and least is not None and low < least:
                return f"{low:,} {noun}, fewer than {least:,}"
            if high is not None and most is not None and high > most:
                return f"{high:,} {noun}, more than {most:,}"
        return None

    return judge


@lru_cache(maxsize=2)
def _tokens(name: str | None) -> Callable[[Spoken], float | None]:
    from posttrain.models.loading import load_tokenizer

    tokenizer = load_tokenizer(str(name))
    return lambda said: len(tokenizer(said.text, add_special_tokens=False, verbose=False).input_ids)
