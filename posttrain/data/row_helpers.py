"""Functions on single rows with TRL's names, as tutorials call them before they train; the trainers need none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.chat import generation_prompt, render
from posttrain.data.formats import split_prompt
from posttrain.data.messages import read_messages
from posttrain.errors import DataError

Row = Mapping[str, Any]
_TEXTS = ("prompt", "completion", "chosen", "rejected")
_ANSWERS = ("completion", "chosen", "rejected")


def is_conversational(example: Row) -> bool:
    """Whether the row holds messages, with role and content, and not text."""
    return any(_messages(example.get(column)) for column in ("messages", *_TEXTS))


def _messages(value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return False
    return isinstance(value[0], Mapping) and "role" in value[0] and "content" in value[0]


def apply_chat_template(
    example: Row, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Any] | None = None, **template_kwargs: Any
) -> dict[str, Any]:
    """The row with its conversations as text: `messages` become `text`, prompts end where the answer begins.

    Raises DataError for a row without messages, ModelError where the template refuses them.
    """
    if not is_conversational(example):
        raise DataError(f"apply_chat_template needs messages, the row has {', '.join(map(repr, example))}")
    options = {**({"tools": tools} if tools else {}), **template_kwargs}

    def shown(messages: Sequence[dict[str, Any]]) -> str:
        return render(tokenizer, messages, add_generation_prompt=False, template_kwargs=options)

    kept = {name: value for name, value in example.items() if name not in ("messages", *_TEXTS)}
    if "messages" in example:
        return {"text": shown(example["messages"]), **kept}
    if "prompt" not in example:
        return {name: shown(example[name]) for name in _ANSWERS if name in example} | kept
    prompt = list(example["prompt"])
    open_turn = prompt[-1]["role"] == "assistant"  # the answer goes on with it
    start = shown(prompt).rstrip() if open_turn else generation_prompt(tokenizer, prompt, options)
    found = {"prompt": start}
    for name in _ANSWERS:
        if name in example:
            whole = shown([*prompt, *example[name]])
            if not whole.startswith(start):
                raise DataError(f"the chat template writes the prompt otherwise where {name!r} follows it")
            found[name] = whole[len(start) :]
    return found | kept


def maybe_apply_chat_template(
    example: Row, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Any] | None = None, **template_kwargs: Any
) -> dict[str, Any]:
    """`apply_chat_template` of a row with messages; any other as it is."""
    if not is_conversational(example):
        return dict(example)
    return apply_chat_template(example, tokenizer, tools, **template_kwargs)


def extract_prompt(example: Row) -> dict[str, Any]:
    """The prompt that `chosen` and `rejected` begin with, and their rests."""
    prompt, (chosen, rejected) = split_prompt(example["chosen"], example["rejected"])
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def maybe_extract_prompt(example: Row) -> dict[str, Any]:
    """`extract_prompt` of a row with chosen and rejected and no prompt; any other as it is."""
    pair = "chosen" in example and "rejected" in example and "prompt" not in example
    return {**example, **extract_prompt(example)} if pair else dict(example)


def maybe_convert_to_chatml(example: Row) -> dict[str, Any]:
    """The row with `from` and `value` as `role` and `content`, and `conversations` as `messages`."""
    columns = ("conversations", "messages", *_TEXTS)
    found = {
        name: read_messages(value, name) if name in columns and isinstance(value, list) else value
        for name, value in example.items()
    }
    return {"messages" if name == "conversations" else name: value for name, value in found.items()}


def unpair_preference_dataset(dataset: Any, num_proc: int | None = None, desc: str | None = None) -> Any:
    """A datasets.Dataset with each pair as a good answer and a bad one: `completion` and `label`."""

    def apart(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        kept = {name: values * 2 for name, values in rows.items() if name not in ("chosen", "rejected")}
        labels = [True] * len(rows["chosen"]) + [False] * len(rows["rejected"])
        return {**kept, "completion": rows["chosen"] + rows["rejected"], "label": labels}

    return dataset.map(apart, batched=True, remove_columns=["chosen", "rejected"], num_proc=num_proc, desc=desc)


def maybe_unpair_preference_dataset(dataset: Any, num_proc: int | None = None, desc: str | None = None) -> Any:
    """`unpair_preference_dataset` of pairs; any other dataset as it is."""
    names = dataset.column_names
    columns = next(iter(names.values())) if isinstance(names, dict) else names
    return unpair_preference_dataset(dataset, num_proc, desc) if {"chosen", "rejected"} <= set(columns) else dataset
