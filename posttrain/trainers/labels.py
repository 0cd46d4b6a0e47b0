"""What the labels of good and bad answers mean for a training: how they are balanced, and what is advised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from posttrain.algorithms.unpaired import UnpairedLoss
from posttrain.config.unpaired import UnpairedConfig
from posttrain.data.trees import TreeSet
from posttrain.data.unpaired import count_kinds
from posttrain.errors import DataError
from posttrain.types import Segment

ADVISED = (1.0, 4 / 3)  # of weight x number of good answers over that of bad ones, arXiv:2402.01306 section 4.2


def with_balance(train: TreeSet, config: UnpairedConfig, loss: UnpairedLoss) -> TreeSet:
    """The answers, their report with what their labels mean for this loss.

    Raises DataError for BCO where a kind is missing: a classifier learns nothing of one kind.
    """
    good, bad = count_kinds(train.trees)
    notes = []
    if not good or not bad:
        kinds = ("bad", "good") if not good else ("good", "bad")
        if loss.form.baseline == "middle":  # of which there is none with one kind
            raise DataError(
                f"{train.report.source}: all {len(train.trees):,} answers are {kinds[0]}, none is {kinds[1]}. BCO "
                "learns to tell the kinds apart and needs both; KTO can learn from one."
            )
        notes.append(
            f"Warning: all answers are {kinds[0]}. KTO then only {'raises' if good else 'lowers'} their probability: "
            f"nothing in the data says what the model should {'avoid' if good else 'write instead'}."
        )
    elif loss.form.baseline != "middle":
        notes += _weights(good, bad, loss)
    in_order = config.train_sampling_strategy == "sequential" and not train.shares
    if in_order and (alone := _steps_of_one_kind(train.trees, config)) > 0.5:
        notes.append(
            f"Warning: {alone:.0%} of the steps see answers of one kind only, because the rows are sorted by label: "
            "write train_sampling_strategy=random."
        )
    return replace(train, report=replace(train.report, notes=(*train.report.notes, *notes)))


def labels_hash(trees: Sequence[Segment]) -> str:
    """A hash of which answers are good."""
    marks = bytes(bool(tree.columns["desirable"][0]) for tree in trees)
    return hashlib.blake2b(marks, digest_size=16).hexdigest()


def _weights(good: int, bad: int, loss: UnpairedLoss) -> list[str]:
    """What the weights come to, and which ones would be advised, where they are outside of it."""
    weighed = loss.desirable_weight * good, loss.undesirable_weight * bad
    low, high = ADVISED
    if weighed[1] and low - 1e-9 <= weighed[0] / weighed[1] <= high + 1e-9:
        return []
    ratio = f"{weighed[0] / weighed[1]:.2f}" if weighed[1] else "infinite"
    advice = []
    if weighed[1]:
        advice.append(f"desirable_weight={_span(*(side * weighed[1] / good for side in ADVISED))}")
    if weighed[0]:
        advice.append(f"undesirable_weight={_span(*(weighed[0] / side / bad for side in reversed(ADVISED)))}")
    return [
        f"Good answers weigh {ratio} times what bad ones do (desirable_weight x {good:,} : undesirable_weight x "
        f"{bad:,}). The KTO paper advises 1 to 1.33: {' or '.join(advice)}."
    ]


def _span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _steps_of_one_kind(trees: Sequence[Segment], config: UnpairedConfig) -> float:
    """The share of the steps of one process that have no good or no bad answers."""
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    kinds = [count_kinds(trees[i : i + rows]) for i in range(0, len(trees), rows)]
    return sum(not all(pair) for pair in kinds) / len(kinds)
