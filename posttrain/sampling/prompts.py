"""Prompts as tokens, up to where the model's answer begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from posttrain.chat import generation_prompt
from posttrain.errors import DataError
from posttrain.types import Message, Prompt


def prompt_messages(prompt: Prompt, number: int, system_message: str | None = None) -> list[Message]:
    """The conversation of a prompt that is a user's message or a conversation, the system message put before it.

    Raises DataError naming the prompt's number where it is neither.
    """
    if isinstance(prompt, str):
        messages: list[Message] = [{"role": "user", "content": prompt}]
    elif _is_sequence(prompt) and prompt and all(isinstance(message, Mapping) for message in prompt):
        messages = [dict(cast(Message, message)) for message in prompt]
    else:
        raise DataError(
            f"prompt {number} is {prompt!r:.80}: give a string, or a list of messages"
            " {'role': 'user', 'content': '...'}."
        )
    if system_message is not None:
        if messages[0].get("role") == "system":
            raise DataError(f"prompt {number} has a system message of its own; leave system_message out.")
        messages.insert(0, {"role": "system", "content": system_message})
    return messages


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of each prompt: of a text or a conversation by the chat template, tokens as they are.

    Raises DataError naming the prompt's number where it is none of these.
    """
    rows: list[list[int]] = []
    seen: dict[str, list[int]] = {}  # sampling often asks for the same prompt many times
    for number, prompt in enumerate(prompts):
        if _is_sequence(prompt) and prompt and all(isinstance(token, Integral) for token in prompt):
            rows.append([int(cast(Any, token)) for token in prompt])
            continue
        text = generation_prompt(tokenizer, prompt_messages(prompt, number))
        if text not in seen:
            # The template writes bos and all other special tokens itself.
            seen[text] = list(tokenizer(text, add_special_tokens=False).input_ids)
        if not seen[text]:
            raise DataError(f"prompt {number} is {prompt!r:.80}, which the chat template makes into no tokens at all.")
        rows.append(seen[text])
    return rows


def _is_sequence(prompt: object) -> bool:
    return isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes)
