"""How far the policy is from the reference, seen on answers after prompts that they do not answer: KTO's z0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from posttrain.algorithms.unpaired import UnpairedBatch
from posttrain.engine.runtime import Runtime
from posttrain.types import Segment, TokenForest

Ask = Callable[[Sequence[Segment]], Sequence[Sequence[float]]]  # trees -> log-probabilities of their trained tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A prompt and its answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    trained: tuple[int, ...]  # places in the answer, ascending from 0


class MismatchedKL:
    """beta z0, with z0 = max(0, mean of log p(y'|x) - log p_ref(y'|x)) over the prompts x of a step of all processes.

    y' is the answer of the row before x in the step, of the last row before the first (arXiv:2402.01306 section 4.2);
    where that row has the same prompt, of the nearest before it that has another. A step whose rows all have one prompt
    has z0 = 0. Rows made so are cut to `max_length` tokens.
    """

    def __init__(self, policy: Ask, reference: Ask, *, beta: float, max_length: int | None, runtime: Runtime) -> None:
        self._policy, self._reference, self._beta = policy, reference, beta
        self._max_length, self._runtime = max_length, runtime

    def __call__(self, batch: UnpairedBatch) -> float:
        everyone: list[list[Row]] = self._runtime.gather_objects(rows_of(batch.forest))
        # every process was dealt each so-manieth row of the step
        numbered = [(rank, row) for rows in zip_longest(*everyone) for rank, row in enumerate(rows) if row is not None]
        rows = [row for _, row in numbered]
        mine = [i for i, (rank, _) in enumerate(numbered) if rank == self._runtime.rank]
        trees = [tree for i in mine if (tree := mismatched(rows, i, self._max_length)) is not None]
        ratios = [
            math.fsum(policy) - math.fsum(reference)
            for policy, reference in zip(self._policy(trees), self._reference(trees))
        ]
        total = self._runtime.sum({"ratios": math.fsum(ratios), "rows": float(len(ratios))})
        return self._beta * max(0.0, total["ratios"] / total["rows"]) if total["rows"] else 0.0

    def observe(self, kinds: Mapping[str, tuple[float, float]]) -> None:
        """z0 follows from the weights alone."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is none."""


def rows_of(forest: TokenForest) -> list[Row]:
    """The prompt and the answer of each tree of one segment; an answer begins where it is first trained."""
    tokens = forest.tokens.tolist()
    places = (forest.predictors + 1).tolist()
    rows = []
    for leaf, first, last in zip(forest.leaves, forest.trained_before, forest.trained_before[1:]):
        begin, end = forest.offsets[leaf], forest.offsets[leaf + 1]
        start = places[first]
        rows.append(
            Row(
                prompt=tuple(tokens[begin:start]),
                answer=tuple(tokens[start:end]),
                trained=tuple(place - start for place in places[first:last]),
            )
        )
    return rows


def mismatched(rows: Sequence[Row], i: int, max_length: int | None) -> Segment | None:
    """The prompt of row i with the answer to another one; None where there is no other, or no room for an answer."""
    prompt = rows[i].prompt
    others = (rows[i - distance] for distance in range(1, len(rows)))
    other = next((row for row in others if row.prompt != prompt), None)
    if other is None:
        return None
    room = len(other.answer) if max_length is None else max_length - len(prompt)
    trained = [place for place in other.trained if place < room]
    if not trained:
        return None
    return Segment(
        tokens=[*prompt, *other.answer[: trained[-1] + 1]],
        trained=[(len(prompt) + place, len(prompt) + place + 1) for place in trained],
    )
