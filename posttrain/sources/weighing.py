"""What each answer of a rewarded dataset weighs in the loss: computed once, before training, and written down."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.algorithms.offline_rl import OFFLINE_LOSSES, Judged, Weighting
from posttrain.data.report import SHOWN_ROWS, DataReport, Dropped
from posttrain.data.rewarded import RewardedRow, RewardedSet
from posttrain.errors import DataError
from posttrain.ops.baselines import PROMPT_BASELINES, offline_advantages
from posttrain.types import Segment

FILE = "weights.jsonl"
NO_WEIGHT = "without weight in the loss"
FEW = 0.1  # of the answers: when so few carry the weight of all, it is said


@dataclass(frozen=True, kw_only=True, slots=True)
class WeighingPlan:
    """How rewards become weights."""

    loss_type: str
    baseline: str
    scale: str  # "group", "data" or "none"
    quantile: float
    decay: float
    temperature: float
    max_weight: float
    threshold: float | None
    normalize: bool  # weights are divided by their mean
    shuffle_seed: int | None = None  # the control arm: rewards are dealt out anew to all answers
    keep_all: bool = False  # answers without weight stay: they are anchored, or measured
    trained: bool = True  # and weights.jsonl is written; else they are only measured


@dataclass(frozen=True, kw_only=True, slots=True)
class WeighedRow:
    """An answer and what became of it; `reward` is the one that was used."""

    of: RewardedRow
    reward: float
    advantage: float | None
    weight: float

    def as_dict(self) -> dict[str, Any]:
        """A line of weights.jsonl."""
        return {
            "row": self.of.row, "place": self.of.place, "prompt": self.of.prompt, "reward": self.reward,
            "advantage": self.advantage, "weight": self.weight,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WeighedSet:
    """Trees whose leaves carry `weights` and `advantages`, and what they were made from."""

    trees: list[Segment]
    rows: list[WeighedRow]  # all that were judged, in the order of the dataset
    leaf_rows: list[int]  # the index into `rows` of each leaf of the trees, in order
    report: DataReport

    def __len__(self) -> int:
        return len(self.trees)

    def content(self) -> str:
        """A hash of the weights: a run goes on with the same ones."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            digest.update(f"{row.of.row} {row.weight!r} {row.advantage!r};".encode())
        return digest.hexdigest()

    def write(self, directory: Path) -> None:
        """Writes weights.jsonl: which row had which reward, advantage and weight."""
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f"{FILE}.partial"
        aside.write_text("".join(json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in self.rows))
        aside.replace(directory / FILE)


def weigh(rewarded: RewardedSet, plan: WeighingPlan) -> WeighedSet:
    """The set with a weight for each answer; answers without one are left out, unless the plan keeps them.

    Raises DataError when none of those that are to be trained has a weight.
    """
    rows = rewarded.rows
    rewards = [row.reward for row in rows]
    if plan.shuffle_seed is not None:
        random.Random(plan.shuffle_seed).shuffle(rewards)
    prompts = [row.prompt for row in rows]
    advantages = offline_advantages(
        rewards, prompts, baseline=plan.baseline, scale=plan.scale, quantile=plan.quantile, decay=plan.decay
    )
    weighed = _weights(rows, rewards, advantages, plan)
    if plan.trained and not any(row.weight for row in weighed):
        raise DataError(_nothing_to_learn(rewarded, rewards, prompts, plan))
    trees, leaf_rows = _with_columns(rewarded, weighed, keep_all=plan.keep_all)
    report = _report(rewarded.report, trees, weighed, plan)
    return WeighedSet(trees=trees, rows=weighed, leaf_rows=leaf_rows, report=report)


def _weights(
    rows: Sequence[RewardedRow], rewards: Sequence[float], advantages: Sequence[float | None], plan: WeighingPlan
) -> list[WeighedRow]:
    highest: dict[int, float] = {}
    lowest: dict[int, float] = {}
    for row, reward in zip(rows, rewards):
        highest[row.prompt] = max(highest.get(row.prompt, reward), reward)
        lowest[row.prompt] = min(lowest.get(row.prompt, reward), reward)
    given = Weighting(temperature=plan.temperature, max_weight=plan.max_weight, threshold=plan.threshold)
    weight = OFFLINE_LOSSES[plan.loss_type].weight
    weights = [
        weight(
            Judged(
                reward=reward,
                advantage=advantage,
                is_best=reward == highest[row.prompt] > lowest[row.prompt],
            ),
            given,
        )
        for row, reward, advantage in zip(rows, rewards, advantages)
    ]
    if plan.normalize:
        some = [value for value in weights if value]
        mean = math.fsum(some) / len(some) if some else 1.0
        weights = [value / mean for value in weights]
    return [
        WeighedRow(of=row, reward=reward, advantage=advantage, weight=value)
        for row, reward, advantage, value in zip(rows, rewards, advantages, weights)
    ]


def _with_columns(
    rewarded: RewardedSet, weighed: Sequence[WeighedRow], *, keep_all: bool
) -> tuple[list[Segment], list[int]]:
    """The trees with the columns on their leaves; leaves that do not stay are cut off, and trees without any."""
    owner = {place: index for index, row in enumerate(weighed) for place in row.of.leaves}
    trees: list[Segment] = []
    leaf_rows: list[int] = []
    for number, tree in enumerate(rewarded.trees):
        place = 0

        def carry(segment: Segment, number: int = number) -> Segment | None:
            nonlocal place
            if segment.children:
                children = [made for child in segment.children if (made := carry(child)) is not None]
                return replace(segment, children=children) if children else None
            index = owner[number, place]
            place += 1
            row = weighed[index]
            if not row.weight and not keep_all:
                return None
            leaf_rows.append(index)
            count = sum(end - begin for begin, end in segment.trained)
            own = {"weights": [row.weight] * count, "advantages": [row.advantage or 0.0] * count}
            return replace(segment, columns={**segment.columns, **own})

        if (made := carry(tree)) is not None:
            trees.append(made)
    return trees, leaf_rows


def _report(
    report: DataReport, trees: Sequence[Segment], weighed: Sequence[WeighedRow], plan: WeighingPlan
) -> DataReport:
    """The report on what is trained after weighing, and which answers weigh most and least."""
    notes = list(report.notes)
    if plan.shuffle_seed is not None:
        notes.append("Control arm: the rewards were dealt out anew to all answers. Nothing can be learned from them.")
    silent = [row for row in weighed if row.advantage is None]
    if silent and plan.baseline in PROMPT_BASELINES and plan.threshold is None:
        prompts = len({row.of.prompt for row in silent})
        everyone = len({row.of.prompt for row in weighed})
        notes.append(
            f"{prompts:,} of {everyone:,} prompts have the same reward on all of their rows ({len(silent):,}): against "
            "their own baseline they say nothing and have no weight."
        )
    carrying = [row for row in weighed if row.weight]
    if carrying:
        notes.append(_spread_of(carrying, plan))
    dropped = dict(report.dropped)
    idle = [row for row in weighed if not row.weight]
    if idle and not plan.keep_all:
        first = tuple(row.of.place for row in idle[:SHOWN_ROWS])
        dropped[NO_WEIGHT] = Dropped(count=len(idle), first=first)
    return replace(
        report,
        rows_kept=len(weighed) if plan.keep_all else len(carrying),
        dropped=dropped,
        tokens=sum(tree.size for tree in trees),
        trained_tokens=sum(e - b for tree in trees for leaf in tree.leaves() for b, e in leaf.trained),
        notes=tuple(notes),
    )


def _spread_of(carrying: Sequence[WeighedRow], plan: WeighingPlan) -> str:
    """How the weights are spread, and the answers at both ends."""
    sizes = [abs(row.weight) for row in carrying]
    effective = math.fsum(sizes) ** 2 / math.fsum(size**2 for size in sizes)
    ordered = sorted(carrying, key=lambda row: row.weight)
    low, high = ordered[0], ordered[-1]
    text = f"Weights ({plan.loss_type}): {len(carrying):,} answers, "
    if low.weight == high.weight:
        text += f"{low.weight:.3g} each."
    else:
        text += (
            f"from {low.weight:.3g} ({low.of.place}, reward {low.reward:g}) to {high.weight:.3g} ({high.of.place}, "
            f"reward {high.reward:g}); they count as much as {effective:,.0f} equal ones."
        )
    if plan.trained:
        text += f" All are in {FILE}."
    if effective < FEW * len(carrying):
        text += " That is few: raise temperature or lower max_weight, or a handful of answers is all that is learned."
    return text


def _nothing_to_learn(
    rewarded: RewardedSet, rewards: Sequence[float], prompts: Sequence[int], plan: WeighingPlan
) -> str:
    source = rewarded.report.source
    if plan.threshold is not None:
        return (
            f"{source}: no reward reaches reward_threshold={plan.threshold:g}; they go from {min(rewards):g} to "
            f"{max(rewards):g}. Lower it, or leave it out for the best answers of each prompt."
        )
    if min(rewards) == max(rewards):
        return (
            f"{source}: all {len(rewards):,} rewards are {rewards[0]:g}. No answer is better than another, so there is "
            "nothing to learn from them. Grade with a reward that tells answers apart."
        )
    count = len(set(prompts))
    other = (
        "reward_threshold=..., which selects by the reward itself"
        if plan.loss_type == "raft"
        else "advantage_baseline='data_mean', which compares with all rows"
    )
    return (
        f"{source}: none of its {count:,} prompts has answers with different rewards ({len(rewards) / count:.1f} "
        f"answers a prompt), so no answer can be compared with another to its prompt. Write {other}."
    )
