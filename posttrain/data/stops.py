"""The tokens with which a chat template ends a turn, found by looking at what it writes after an answer."""

from __future__ import annotations

from typing import Any

import jinja2

from posttrain.errors import DataError

_ANSWER = "posttrainanswerprobe"
_QUESTION = {"role": "user", "content": "question"}


def turn_ends(tokenizer: Any) -> frozenset[int]:
    """The special tokens that end an assistant turn: the template's own, last and between turns, and eos.

    Raises DataError if the template puts none after the last answer: a model trained so would never stop.
    """
    answer = {"role": "assistant", "content": _ANSWER}
    last = _special_after_answer(tokenizer, [_QUESTION, answer])
    if last is None:
        raise DataError(
            "The chat template writes no special token after an assistant's answer, so the trained model "
            "would not learn to stop. In tokenizer.chat_template end assistant messages with one: "
            f"{{{{ message['content'] }}}}{tokenizer.eos_token or '<eos>'}; or set another template."
        )
    between = _special_after_answer(tokenizer, [_QUESTION, answer, _QUESTION])
    return frozenset(token for token in (last, between, tokenizer.eos_token_id) if token is not None)


def _special_after_answer(tokenizer: Any, messages: list[dict[str, str]]) -> int | None:
    """The first special token after the answer, other than one that begins a text."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        raise DataError(
            f"The chat template cannot render a question and its answer: {error}. Templates for images want "
            "content in parts and are not supported; set a tokenizer.chat_template for text."
        ) from None
    _, found, tail = text.rpartition(_ANSWER)
    if not found:
        return None
    special = special_ids(tokenizer) - ({tokenizer.bos_token_id} - {tokenizer.eos_token_id})
    tokens = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return next((token for token in tokens if token in special), None)


def special_ids(tokenizer: Any) -> set[int]:
    """The ids that text is never split into by chance: special and added tokens."""
    return set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
