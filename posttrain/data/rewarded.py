"""Reads answers with rewards, from any rows or from the completions of a run, into trees that share their prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.chat import end_of_turn
from posttrain.data.loading import PROVENANCE, Rows, load_rows
from posttrain.data.messages import read_messages
from posttrain.data.rendering import common_prefix
from posttrain.data.report import SHOWN_ROWS, DataReport, Tally
from posttrain.data.trees import CUT_AWAY, EMPTY, sft_trees
from posttrain.errors import DataError, nearest
from posttrain.types import Segment

REWARDS = ("reward", "grade", "label")  # the columns that may hold it, the first that is there
ASKED = (  # what an answer answers: rows in which all of these are the same have one prompt
    "prompt", "instruction", "input", "context", "question", "query", "system", "history", "tools",
    "chat_template_kwargs",
)  # fmt: skip
UNJUDGED = "not judged (the reward is null)"
_TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardedRow:
    """An answer that can be trained."""

    row: int  # of the dataset
    place: str  # for messages to the user: "rows.jsonl:17"
    prompt: int  # the number of its prompt
    reward: float
    leaves: tuple[tuple[int, int], ...]  # (tree, leaf); one, but where a chat template rewrites history


@dataclass(frozen=True, kw_only=True)
class RewardedSet:
    """Answers with rewards, those to one prompt in one tree."""

    trees: list[Segment]
    rows: list[RewardedRow]  # in the order of the dataset
    report: DataReport
    knows_writer: bool  # the leaves have `old_logprobs`, of the policy that wrote the answers

    def __len__(self) -> int:
        return len(self.trees)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A row on its way into a tree: the prompt it answers, and its own sequences."""

    row: int
    key: Any
    reward: float
    trees: Sequence[Segment]  # one without children, but where a chat template rewrites history


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part(Rows):
    """Some rows of a dataset, which stand where they stood in it."""

    whole: Rows
    kept: Sequence[int]

    def where(self, row: int) -> str:
        return self.whole.where(self.kept[row])


def reward_trees(
    rows: Any, tokenizer: Any, *, max_length: int | None, reward_column: str | None = None, name: str = "train_dataset"
) -> RewardedSet:
    """A tree for each prompt: its answers are the leaves, each trained with the token that ends it.

    Rows have a reward (`reward`, `grade` of `posttrain grade`, or a `label` of true or false) and an answer: `prompt`
    with `completion` or `response`, or anything that SFT reads, of which the last turn is the answer. Rows with
    `prompt_ids` and `completion_ids`, as a run's samples.jsonl has them, are trained as these tokens are; those
    without a reward were not judged, and are left out and counted, as are rows that `posttrain grade` could not grade.
    Raises DataError for any other row whose reward is missing or not finite, and if no row is left.
    """
    rows = load_rows(rows, name=name)
    column = _reward_column(rows, reward_column)
    by_tokens = "completion_ids" in rows[0] and "prompt_ids" in rows[0]
    rewards = _rewards(rows, column, may_be_null=by_tokens or column == "grade")
    tally = Tally()
    for index, reward in enumerate(rewards):
        if reward is None:
            tally.drop(UNJUDGED, rows.where(index))
    kept = [index for index, reward in enumerate(rewards) if reward is not None]
    if not kept:
        raise DataError(f"{rows.source}: none of its {len(rows):,} rows was judged; every {column!r} is null.")
    read = _from_tokens if by_tokens else _from_rows
    answers, base = read(rows, kept, rewards, tokenizer, max_length, tally, column)
    trees, judged = _assemble(answers, rows)
    remedy = f"Give answers that are not empty, or a larger max_length (it is {max_length})."
    notes = [*base.pop("notes", ()), *_about_rewards(rows, column, judged, trees)]
    report = tally.report(
        trees, tokenizer, remedy=remedy, source=rows.source, rows_read=len(rows), rows_kept=len(judged),
        notes=tuple(notes), **base,
    )  # fmt: skip
    return RewardedSet(
        trees=trees, rows=judged, report=report,
        knows_writer=all("old_logprobs" in leaf.columns for tree in trees for leaf in tree.leaves()),
    )  # fmt: skip


def _reward_column(rows: Rows, asked: str | None) -> str:
    columns = [str(column) for column in rows[0]]
    if asked is not None:
        if asked in columns:
            return asked
        raise DataError(
            f"{rows.where(0)}: there is no column {asked!r} (reward_column){nearest(asked, columns)} Columns: "
            f"{', '.join(columns)}."
        )
    found = next((column for column in REWARDS if column in columns), None)
    if found is not None:
        return found
    raise DataError(
        f"{rows.where(0)}: the columns {', '.join(columns) or '(none)'} hold no reward. Every row needs a number in "
        "'reward' (or true and false in 'label'); reward_column names another. `posttrain grade` writes rewards."
    )


def _rewards(rows: Rows, column: str, may_be_null: bool) -> list[float | None]:
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


def _from_rows(
    rows: Rows, kept: Sequence[int], rewards: Sequence[float | None], tokenizer: Any, max_length: int | None,
    tally: Tally, column: str,
) -> tuple[list[_Answer], dict[str, Any]]:  # fmt: skip
    """The answers of rows of text or messages, read and cut as SFT reads them."""
    own = (column, *(("grade", "unjudged") if column == "grade" else ()))
    plain = [_as_demonstration(rows[i], own, rows.where(i)) for i in kept]
    part = _Part(name=rows.name, path=rows.path, records=plain, whole=rows, kept=kept)
    made = sft_trees(part, tokenizer, max_length=max_length)
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
        _Answer(
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
        "notes": (*read_as, *report.notes),
    }
    return answers, base


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


def _as_demonstration(row: Mapping[str, Any], without: Sequence[str], place: str) -> dict[str, Any]:
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


def _from_tokens(
    rows: Rows, kept: Sequence[int], rewards: Sequence[float | None], tokenizer: Any, max_length: int | None,
    tally: Tally, column: str,
) -> tuple[list[_Answer], dict[str, Any]]:  # fmt: skip
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
        answers.append(_Answer(row=index, key=tuple(prompt), reward=rewards[index] or 0.0, trees=[tree]))
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


def _assemble(answers: Sequence[_Answer], rows: Rows) -> tuple[list[Segment], list[RewardedRow]]:
    """One tree a prompt, in the order in which prompts first appear, and where each answer's leaves are."""
    groups: dict[Any, list[_Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.key, []).append(answer)
    trees: list[Segment] = []
    judged: list[RewardedRow] = []
    for number, members in enumerate(groups.values()):
        plain = [answer for answer in members if _is_plain(answer)]
        shared = _shared([answer.trees[0] for answer in plain]) if plain else None
        if shared is not None:
            trees.append(shared)
        for leaf, answer in enumerate(plain if shared is not None else ()):
            judged.append(_row(answer, rows, number, [(len(trees) - 1, leaf)]))
        for answer in members if shared is None else [a for a in members if not _is_plain(a)]:
            places = [
                (len(trees) + i, leaf) for i, tree in enumerate(answer.trees) for leaf, _ in enumerate(tree.leaves())
            ]
            trees += answer.trees
            judged.append(_row(answer, rows, number, places))
    return trees, sorted(judged, key=lambda row: row.row)


def _is_plain(answer: _Answer) -> bool:
    return len(answer.trees) == 1 and not answer.trees[0].children


def _row(answer: _Answer, rows: Rows, prompt: int, leaves: Sequence[tuple[int, int]]) -> RewardedRow:
    place = rows.where(answer.row)
    return RewardedRow(row=answer.row, place=place, prompt=prompt, reward=answer.reward, leaves=tuple(leaves))


def _shared(sequences: Sequence[Segment]) -> Segment | None:
    """The tree of these answers: a root of what all begin with before any is trained, and a leaf for each.

    None where they have no beginning in common.
    """
    if len(sequences) == 1:
        return sequences[0]
    first = sequences[0].tokens
    root = min(sequence.trained[0][0] for sequence in sequences)
    for other in sequences[1:]:
        root = min(root, common_prefix(first, other.tokens))
    if root == 0:
        return None
    leaves = [
        replace(s, tokens=s.tokens[root:], trained=[(begin - root, end - root) for begin, end in s.trained])
        for s in sequences
    ]
    return Segment(tokens=first[:root], children=leaves)


def _about_rewards(
    rows: Rows, column: str, judged: Sequence[RewardedRow], trees: Sequence[Segment]
) -> list[str]:  # fmt: skip
    """What the rewards are like, and which answers are there twice."""
    if not judged:
        return []
    values = [row.reward for row in judged]
    prompts = {row.prompt for row in judged}
    mean = math.fsum(values) / len(values)
    notes = [
        f"Rewards: mean {mean:.3g}, from {min(values):g} to {max(values):g}, of {len(values):,} answers to "
        f"{len(prompts):,} prompts."
    ]
    if isinstance(rows[judged[0].row].get(column), bool):
        notes.append(f"{column!r} is true or false: read as the rewards 1 and 0.")
    leaves = [list(tree.leaves()) for tree in trees]
    seen: dict[Any, float] = {}
    repeated = contradicting = 0
    for row in judged:
        key = (row.prompt, *(tuple(leaves[tree][leaf].tokens) for tree, leaf in row.leaves))
        repeated += key in seen
        contradicting += seen.setdefault(key, row.reward) != row.reward
    if repeated:
        said = (
            f"{repeated:,} answers repeat an earlier one to the same prompt; each is trained as often as it is there."
        )
        notes.append(said + (f" {contradicting:,} of them have another reward." if contradicting else ""))
    return notes
