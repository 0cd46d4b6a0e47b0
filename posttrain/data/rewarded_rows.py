"""Reads answers with rewards: what each is worth, and its tokens, from any rows or from the completions of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.chat import end_of_turn
from posttrain.data.loading import PROVENANCE, Rows
from posttrain.data.messages import read_messages
from posttrain.data.report import SHOWN_ROWS, Tally
from posttrain.data.trees import CUT_AWAY, EMPTY, sft_trees
from posttrain.errors import DataError, nearest
from posttrain.types import Segment

REWARDS = ("reward", "grade", "label")  # the columns that may hold it, the first that is there
ASKED = (  # what an answer answers: rows in which all of these are the same have one prompt
    "prompt", "instruction", "input", "context", "question", "query", "system", "history", "tools",
    "chat_template_kwargs",
)  # fmt: skip
_TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A row on its way into a tree: the prompt it answers, and its own sequences."""

    row: int
    key: Any
    reward: float
    trees: Sequence[Segment]  # one without children, but where a chat template rewrites history


@dataclass(frozen=True, kw_only=True, slots=True)
class Part(Rows):
    """Some rows of a dataset, which stand where they stood in it."""

    whole: Rows
    kept: Sequence[int]

    def where(self, row: int) -> str:
        return self.whole.where(self.kept[row])


def find_reward_column(rows: Rows, asked: str | None) -> str:
    """The column that was asked for, or the first of REWARDS. Raises DataError where there is none."""
    columns = [str(column) for column in rows[0]]
    if asked is not None:
        if asked in columns:
            return asked
        raise DataError(
            f"{rows.where(0)}: there is no column {asked!r} (reward_column){nearest(asked, columns) or '.'} Columns: "
            f"{', '.join(columns)}."
        )
    found = next((column for column in REWARDS if column in columns), None)
    if found is not None:
        return found
    raise DataError(
        f"{rows.where(0)}: the columns {', '.join(columns) or '(none)'} hold no reward. Every row needs a number in "
        "'reward' (or true and false in 'label'); reward_column names another. `posttrain grade` writes rewards."
    )


def read_rewards(rows: Rows, column: str, may_be_null: bool) -> list[float | None]:
    """The reward of each row. Raises DataError that counts the rows without one and names the first."""
    found: list[float | None] = []
    broken: list[str] = []
    for index, row in enumerate(rows):
        value = row.get(column)
        if value is None and may_be_null and column in row:
            found.append(None)
            continue
        number = _number(value)
        if number is None or not math.isfinite(number):
            broken.append(f"{rows.where(index)} ({'missing' if value is None else repr(value)[:40]})")
        found.append(number)
    if broken:
        more = ", ..." if len(broken) > SHOWN_ROWS else ""
        raise DataError(
            f"{rows.source}: {len(broken):,} of {len(rows):,} rows have no finite number in {column!r}: "
            f"{', '.join(broken[:SHOWN_ROWS])}{more}. Mend these rows or remove them: what an answer is worth is not "
            "guessed."
        )
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, str):  # a CSV cell
        if value.strip().lower() in _TRUTHS:
            return _TRUTHS[value.strip().lower()]
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) else None


def answers_of_rows(
    rows: Rows, kept: Sequence[int], rewards: Sequence[float | None], tokenizer: Any, max_length: int | None,
    tally: Tally, column: str, processes: int | None = None,
) -> tuple[list[Answer], dict[str, Any]]:  # fmt: skip
    """The answers of rows of text or messages, read and cut as SFT reads them."""
    plain = [as_demonstration(rows[i], (column, "unjudged"), rows.where(i)) for i in kept]
    part = Part(name=rows.name, path=rows.path, records=plain, whole=rows, kept=kept)
    made = sft_trees(part, tokenizer, max_length=max_length, processes=processes)
    for reason, dropped in made.report.dropped.items():
        tally.dropped[reason] = (dropped.count, list(dropped.first))
    tally.truncated = made.report.truncated
    sequences: dict[int, list[Segment]] = {}
    unended = 0
    for place, tree in zip(made.rows, made.trees):
        if plain[place].get("finish_reason") == "length" and (shorter := _without_end(tree, tokenizer)) is not tree:
            tree, unended = shorter, unended + 1
        sequences.setdefault(place, []).append(tree)
    answers = [
        Answer(
            row=kept[place],
            key=json.dumps([plain[place].get(name) for name in ASKED], sort_keys=True, default=str),
            reward=rewards[kept[place]] or 0.0,
            trees=trees,
        )
        for place, trees in sequences.items()
    ]
    report, first = made.report, rows[kept[0]]
    answer = next((name for name in ("messages", "conversations") if "prompt" not in first and name in first), None)
    read_as = [f"The last turn of {answer!r} is the answer that the reward is of."] if answer else []
    if "prompt" in first and "completion" not in first and "response" in first:
        read_as = ["'response' is the completion."]
    if unended:
        read_as.append(f"{unended:,} answers were cut off as they were written (finish_reason): they train no end.")
    base: dict[str, Any] = {
        "format": f"{report.format} with {column}",
        "understood": f"{report.understood}, and {column!r} says how good the answer is",
        "trained": report.trained,
        "ignored_columns": report.ignored_columns,
        "notes": (*read_as, *report.notes, *weights_note(made.trees)),
    }
    return answers, base


def weights_note(trees: Sequence[Segment]) -> list[str]:
    """What the report should say where messages have weights, which only SFT multiplies with."""
    weighted = any("weight" in leaf.columns for tree in trees for leaf in tree.leaves())
    return ["Here a turn of weight 0 is context, and all others count the same."] if weighted else []


def _without_end(tree: Segment, tokenizer: Any) -> Segment:
    """The tree without the token that ends its answer, which a writer that was cut off never wrote."""
    ends = {tokenizer.eos_token_id}
    if tokenizer.chat_template:
        ends.add(end_of_turn(tokenizer, followed=False))
    if tree.children or tree.tokens[-1] not in ends:
        return tree
    *spans, (begin, end) = tree.trained
    if end - begin < 2:
        return tree
    return replace(tree, tokens=tree.tokens[:-1], trained=[*spans, (begin, end - 1)])


def as_demonstration(row: Mapping[str, Any], without: Sequence[str], place: str) -> dict[str, Any]:
    """The row as SFT would have it: prompt and completion; of a conversation, the last turn is the completion."""
    plain = {key: value for key, value in row.items() if key not in without}
    if "prompt" in plain and "completion" not in plain and "response" in plain:
        plain["completion"] = plain.pop("response")
    if "prompt" in plain:
        return plain
    for column in ("messages", "conversations"):
        if plain.get(column) is not None:
            try:
                messages = read_messages(plain.pop(column), column)
            except DataError as error:
                raise DataError(f"{place}: {error}") from None
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                raise DataError(
                    f"{place}: {column!r} must end with the answer that the reward is of: a question, and then an "
                    "assistant's message."
                )
            return {**plain, "prompt": messages[:-1], "completion": messages[-1:]}
    return plain


def answers_of_samples(
    rows: Rows, kept: Sequence[int], rewards: Sequence[float | None], tokenizer: Any, max_length: int | None,
    tally: Tally, column: str,
) -> tuple[list[Answer], dict[str, Any]]:  # fmt: skip
    """The answers of a run's samples: tokens as they were written, with what their writer gave them."""
    vocabulary = len(tokenizer)
    knows_writer = all(_gives_logprobs(rows[index]) for index in kept)
    answers = []
    for index in kept:
        row, place = rows[index], rows.where(index)
        prompt, tokens = (_ids(row, name, vocabulary, place) for name in ("prompt_ids", "completion_ids"))
        if not prompt:
            raise DataError(f"{place}: 'prompt_ids' is empty; the first token of an answer needs something before it.")
        if not tokens:
            tally.drop(EMPTY, place)
            continue
        room = len(tokens) if max_length is None else max_length - len(prompt)
        if room < 1:
            tally.drop(CUT_AWAY, place)
            continue
        tally.truncated += room < len(tokens)
        count = min(room, len(tokens))
        columns = {"old_logprobs": [float(value) for value in row["logprobs"][:count]]} if knows_writer else {}
        whole = [*prompt, *tokens[:count]]
        tree = Segment(tokens=whole, trained=[(len(prompt), len(whole))], columns=columns)
        answers.append(Answer(row=index, key=tuple(prompt), reward=rewards[index] or 0.0, trees=[tree]))
    read = ("prompt_ids", "completion_ids", "logprobs", column)
    base: dict[str, Any] = {
        "format": f"token ids with {column}",
        "understood": f"'completion_ids' answers 'prompt_ids', and {column!r} says how good the answer is",
        "trained": "the tokens of each answer exactly as they were written; prompts are context.",
        "ignored_columns": tuple(str(name) for name in rows[0] if name not in (*read, PROVENANCE)),
    }
    return answers, base


def _ids(row: Mapping[str, Any], column: str, vocabulary: int, place: str) -> list[int]:
    value = row.get(column)
    if not isinstance(value, list) or not all(
        isinstance(token, int) and not isinstance(token, bool) for token in value
    ):
        raise DataError(f"{place}: {column!r} must be a list of token ids, as in the first row; got {value!r:.60}.")
    if outside := [token for token in value if not 0 <= token < vocabulary]:
        raise DataError(
            f"{place}: {column!r} has the id {outside[0]}, and the tokenizer knows {vocabulary:,}. These samples are "
            "of another model: give the model that wrote them, or one with its tokenizer."
        )
    return value


def _gives_logprobs(row: Mapping[str, Any]) -> bool:
    """Whether the row says how likely its writer found each token."""
    values, tokens = row.get("logprobs"), row.get("completion_ids")
    if not isinstance(values, list) or not isinstance(tokens, list) or len(values) != len(tokens):
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
