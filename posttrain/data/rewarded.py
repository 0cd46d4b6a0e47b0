"""Answers with rewards as trees: those to one prompt share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from posttrain.data.loading import Rows, load_rows
from posttrain.data.rendering import common_prefix
from posttrain.data.report import DataReport, Tally
from posttrain.data.rewarded_rows import (
    Answer,
    answers_of_rows,
    answers_of_samples,
    find_reward_column,
    read_rewards,
)
from posttrain.errors import DataError
from posttrain.types import Segment

UNJUDGED = "not judged (the reward is null)"


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


def reward_trees(
    rows: Any,
    tokenizer: Any,
    *,
    max_length: int | None,
    reward_column: str | None = None,
    processes: int | None = None,
    name: str = "train_dataset",
) -> RewardedSet:
    """A tree for each prompt: its answers are the leaves, each trained with the token that ends it.

    Rows have a reward (`reward`, `grade` of `posttrain grade`, or a `label` of true or false) and an answer: `prompt`
    with `completion` or `response`, or anything that SFT reads, of which the last turn is the answer. Rows with
    `prompt_ids` and `completion_ids`, as a run's samples.jsonl has them, are trained as these tokens are; those
    without a reward were not judged, and are left out and counted, as are rows that `posttrain grade` could not grade.
    Raises DataError for any other row whose reward is missing or not finite, and if no row is left.
    """
    rows = load_rows(rows, name=name)
    column = find_reward_column(rows, reward_column)
    by_tokens = "completion_ids" in rows[0] and "prompt_ids" in rows[0]
    rewards = read_rewards(rows, column, may_be_null=by_tokens or column == "grade")
    tally = Tally()
    for index, reward in enumerate(rewards):
        if reward is None:
            tally.drop(UNJUDGED, rows.where(index))
    kept = [index for index, reward in enumerate(rewards) if reward is not None]
    if not kept:
        raise DataError(f"{rows.source}: none of its {len(rows):,} rows was judged; every {column!r} is null.")
    read = answers_of_samples if by_tokens else partial(answers_of_rows, processes=processes)
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


def _assemble(answers: Sequence[Answer], rows: Rows) -> tuple[list[Segment], list[RewardedRow]]:
    """One tree a prompt, in the order in which prompts first appear, and where each answer's leaves are."""
    groups: dict[Any, list[Answer]] = {}
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


def _is_plain(answer: Answer) -> bool:
    return len(answer.trees) == 1 and not answer.trees[0].children


def _row(answer: Answer, rows: Rows, prompt: int, leaves: Sequence[tuple[int, int]]) -> RewardedRow:
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
