"""Which shape rows have, told from their columns, and how a row of each shape is understood."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from posttrain.curation.conversion.record import Kind, Record
from posttrain.curation.conversion.trees import tree_pairs, tree_prompts, tree_records
from posttrain.curation.rows import PROVENANCE, Row
from posttrain.data.formats import Content, Format, Task, content, detect
from posttrain.data.loading import Rows
from posttrain.data.messages import read_messages, read_tools
from posttrain.errors import DataError

_LABELS = ("label", "kto_tag")
_TRUTH = {True: True, False: False, "true": True, "false": False, "True": True, "False": False}
_QUESTIONS = {"question": None, "instruction": "input", "query": None}  # column -> further input
_OPENAI_PAIR = ("input", "preferred_output", "non_preferred_output")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the rows of a file are read."""

    name: str
    sentence: str  # how the columns are understood
    kind: Kind
    columns: tuple[str, ...]  # what every row must have
    optional: tuple[str, ...] = ()  # what is used where it is there
    read: Callable[[Mapping[str, Any]], list[Record]]

    def records(self, row: Row) -> list[Record]:
        """What the row says, with the columns that are not read. Raises DataError where it does not fit."""
        there = {name: _unpacked(name, value) for name, value in row.items() if value is not None}
        missing = [column for column in self.columns if column not in there]
        if missing:
            have = ", ".join(name for name in there if name != PROVENANCE) or "none"
            raise DataError(f"{missing[0]!r} is missing or empty (columns: {have})")
        read = (*self.columns, *self.optional, "tools", PROVENANCE)
        columns = {name: value for name, value in there.items() if name not in read}
        tools = read_tools(there.get("tools"))
        return [replace(found, tools=tools, columns=columns) for found in self.read(there)]


def _unpacked(name: str, value: Any) -> Any:
    """The value of a column that is never text, from the JSON text that a table holds it as."""
    if name not in ("history", "chat_template_kwargs") or not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError as error:
        raise DataError(f"{name!r} is not valid JSON: {error}") from None


def tell(rows: Sequence[Row]) -> Shape | None:
    """The shape that most of the rows have which have one, None where none has."""
    shapes = [shape for row in rows if (shape := shape_of(row)) is not None]
    votes = Counter(shape.name for shape in shapes).most_common(1)
    return next((shape for shape in shapes if shape.name == votes[0][0]), None)


def shape_of(row: Row) -> Shape | None:
    """The shape of a row, from its columns."""
    there = {name: value for name, value in row.items() if value is not None and name != PROVENANCE}
    prompt = there.get("prompt")
    if isinstance(prompt, Mapping) and "replies" in prompt:
        return TREE
    if "instruction" in there and isinstance(there.get("instances"), list):
        return SEED
    if all(isinstance(there.get(column), Mapping | list) for column in _OPENAI_PAIR):
        return OPENAI_PREFERENCE
    if "chosen" in there and "rejected" in there:
        return _format(there, "DPO", "preference")
    label = next((column for column in _LABELS if _is_truth(there.get(column))), None)
    if label is not None:
        answer = _format({name: value for name, value in there.items() if name != label}, "SFT", "demonstration")
        return None if answer is None else _unpaired(answer, label)
    return _demonstration(there) or _prompt(there)


def tree_shape(to: str | None, *, every: bool) -> Shape:
    """Trees as what `to` is written from: pairs of replies, root prompts, or the conversation down the best replies."""
    if to == "prompt-only":
        return replace(TREE, kind="prompt", sentence=f"{TREE.sentence}; read is its root", read=tree_prompts)
    if to in ("preference", "unpaired"):
        which = "every pair of different ranks" if every else "the best against the worst reply to each question"
        sentence = f"{TREE.sentence}; read is {which}"
        return replace(TREE, kind="preference", sentence=sentence, read=partial(tree_pairs, every=every))
    return TREE


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | str) and value in _TRUTH


def _format(row: Mapping[str, Any], task: Task, kind: Kind) -> Shape | None:
    """The shape of rows that a trainer reads."""
    try:
        found: Format = detect(Rows(name="rows", records=[row]), task=task)
    except DataError:
        return None
    kind = "text" if found.name == "text" else kind

    def read(row: Mapping[str, Any]) -> list[Record]:
        prompt, completions = found.read(row)
        return [Record(kind=kind, prompt=prompt, completions=completions)]

    return Shape(
        name=found.name, sentence=found.sentence, kind=kind, columns=found.columns, optional=found.optional, read=read
    )


def _demonstration(row: Mapping[str, Any]) -> Shape | None:
    """Rows to imitate; a conversation that ends with a question is none."""
    found = _format(row, "SFT", "demonstration")
    if found is None or found.name not in ("messages", "conversations"):
        return found
    try:
        messages = read_messages(row[found.name], found.name)
    except DataError:
        return found
    return found if messages and messages[-1]["role"] == "assistant" else None


def _unpaired(answer: Shape, label: str) -> Shape:
    def read(row: Mapping[str, Any]) -> list[Record]:
        if not _is_truth(row[label]):
            raise DataError(f"{label!r} is {row[label]!r}; it must be true for a good answer or false for a bad one")
        return [replace(found, kind="unpaired", label=_TRUTH[row[label]]) for found in answer.read(row)]

    return Shape(
        name=f"{answer.name}, labelled",
        sentence=f"{answer.sentence}, and {label!r} says whether the answer is good",
        kind="unpaired",
        columns=(*answer.columns, label),
        optional=answer.optional,
        read=read,
    )


def _prompt(row: Mapping[str, Any]) -> Shape | None:
    """Rows that only ask."""
    column = next((c for c in ("prompt", "messages", "conversations", *_QUESTIONS) if c in row), None)
    if column is None:
        return None
    further = _QUESTIONS.get(column)

    def read(row: Mapping[str, Any]) -> list[Record]:
        asked = row[column] if column in _QUESTIONS else content(row, column)
        if column in ("messages", "conversations"):
            asked = read_messages(row[column], column)
        if column in _QUESTIONS:
            asked = _question(row, column, further)
        return [Record(kind="prompt", prompt=_with_system(row, asked))]

    understood = "is a user's message" if column in _QUESTIONS else "is to be answered"
    return Shape(
        name=f"{column}, only",
        sentence=f"{column!r} {understood}",
        kind="prompt",
        columns=(column,),
        optional=("system", *([further] if further else [])),
        read=read,
    )


def _question(row: Mapping[str, Any], column: str, further: str | None) -> Content:
    asked = row[column]
    if isinstance(asked, list):  # messages, or a list of one conversation
        return read_messages(asked[0] if len(asked) == 1 and isinstance(asked[0], list) else asked, column)
    parts = [asked, *([row[further]] if further and row.get(further) else [])]
    if not all(isinstance(part, str) for part in parts):
        raise DataError(f"{column!r} must be a string, got {type(asked).__name__} {str(asked)[:40]!r}")
    return [{"role": "user", "content": "\n".join(parts)}]


def _with_system(row: Mapping[str, Any], prompt: Content) -> Content:
    if not row.get("system"):
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if messages and messages[0]["role"] == "system":
        return messages
    if not isinstance(row["system"], str):
        raise DataError(f"'system' must be a string, got {type(row['system']).__name__}")
    return [{"role": "system", "content": row["system"]}, *messages]


def _seed_records(row: Mapping[str, Any]) -> list[Record]:
    """A record for each instance of a self-instruct task."""
    found = []
    for number, instance in enumerate(row["instances"]):
        if not isinstance(instance, Mapping) or not isinstance(instance.get("output"), str):
            raise DataError(f"instances[{number}] has no 'output' that is a string")
        asked = _question({**row, "input": instance.get("input")}, "instruction", "input")
        answer = [{"role": "assistant", "content": instance["output"]}]
        notes = {"instance": number} if len(row["instances"]) > 1 else {}
        found.append(Record(kind="demonstration", prompt=asked, completions=(answer,), notes=notes))
    if not found:
        raise DataError("'instances' is empty; a task needs at least one")
    return found


def _openai_records(row: Mapping[str, Any]) -> list[Record]:
    asked = row["input"]
    messages = asked.get("messages") if isinstance(asked, Mapping) else asked
    pair = tuple(read_messages(row[column], column) for column in _OPENAI_PAIR[1:])
    return [Record(kind="preference", prompt=read_messages(messages, "input.messages"), completions=pair)]


TREE = Shape(
    name="tree",
    sentence="'prompt' is a tree of messages with ranked replies",
    kind="demonstration",
    columns=("prompt",),
    read=tree_records,
)
SEED = Shape(
    name="self-instruct",
    sentence="'instruction' with each of its 'instances' is read as a user's message and 'output' as the answer",
    kind="demonstration",
    columns=("instruction", "instances"),
    optional=("input",),
    read=_seed_records,
)
OPENAI_PREFERENCE = Shape(
    name="openai preference",
    sentence="'preferred_output' and 'non_preferred_output' answer 'input'",
    kind="preference",
    columns=_OPENAI_PAIR,
    read=_openai_records,
)
