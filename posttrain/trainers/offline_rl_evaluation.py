"""What a dataset of answers with rewards says of a model: the loss, and whether it finds better answers likelier."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from posttrain.config.dataset import DatasetConfig
from posttrain.engine.evaluation import Evaluating, evaluate_loss
from posttrain.engine.step import LossFunction
from posttrain.ops.segments import segment_sum
from posttrain.sources.weighing import WeighedRow, WeighedSet
from posttrain.stats.ranks import rank_correlation
from posttrain.trainers.assembly import Assembled
from posttrain.types import Batch, Loss, Outputs, Segment


def evaluate_answers(
    assembled: Assembled, answers: WeighedSet, build: Callable[[Sequence[Segment]], Batch], loss: LossFunction
) -> dict[str, float]:
    """The `eval_` metrics of the loss, and of the answers' log-probabilities against their rewards.

    `rank_correlation` is Spearman's, of the mean log-probability of an answer's tokens and its reward, over all
    answers, with a 95% interval over prompts; `pair_accuracy` is the share of pairs of answers to one prompt with
    different rewards of which the better one is the likelier, and `reward_weighted_logprob` the mean over answers of
    reward times log-probability of a token.
    """
    runtime, config = assembled.runtime, assembled.config
    assert isinstance(config, DatasetConfig)
    trees = answers.trees
    numbers = list(range(len(trees)))[runtime.rank :: runtime.world_size]
    batch = build([trees[i] for i in numbers]) if numbers else build(trees[:1]).nothing()
    if not numbers:
        batch.units.update(dict.fromkeys(batch.units, 0.0))
    means: list[float] = []

    def listening(part: Any, outputs: Outputs) -> Loss:
        forest = part.forest
        sums = segment_sum(outputs.logprobs.double().cpu(), forest.sequence.cpu(), len(forest.leaves))
        means.extend((sums / torch.tensor(forest.trained or (1,))[: len(sums)]).tolist())
        return loss(part, outputs)

    metrics = evaluate_loss(
        assembled.learner, batch, listening, runtime=runtime, max_tokens=assembled.budget.max_tokens,
        how=Evaluating.of(config),
    )  # fmt: skip
    if config.prediction_loss_only:
        return metrics
    everyone = runtime.gather_objects((numbers, means))
    return metrics | {f"eval_{name}": value for name, value in _of_answers(answers, everyone).items()}


def _of_answers(answers: WeighedSet, everyone: Sequence[tuple[list[int], list[float]]]) -> dict[str, float]:
    counts = [sum(1 for _ in tree.leaves()) for tree in answers.trees]
    by_tree: dict[int, list[float]] = {}
    for numbers, means in everyone:
        place = 0
        for number in numbers:
            by_tree[number] = means[place : place + counts[number]]
            place += counts[number]
    in_order = [value for number in range(len(counts)) for value in by_tree[number]]
    found: dict[int, float] = {}
    for index, value in zip(answers.leaf_rows, in_order):  # of several leaves of a row, the last
        found[index] = value
    rows = [(answers.rows[index], value) for index, value in sorted(found.items())]
    correlation = rank_correlation(
        [value for _, value in rows], [row.reward for row, _ in rows], [row.of.prompt for row, _ in rows]
    )
    metrics = {
        "reward_weighted_logprob": math.fsum(row.reward * value for row, value in rows) / len(rows),
        "rank_correlation": correlation.estimate,
        "rank_correlation/low": correlation.low,
        "rank_correlation/high": correlation.high,
        "pair_accuracy": _pair_accuracy(rows),
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _pair_accuracy(rows: Sequence[tuple[WeighedRow, float]]) -> float:
    """Of pairs with one prompt and different rewards; a tie in likelihood counts half. NaN without such pairs."""
    groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row, value in rows:
        groups[row.of.prompt].append((row.reward, value))
    won = pairs = 0.0
    for members in groups.values():
        for i, (reward, value) in enumerate(members):
            for other_reward, other in members[:i]:
                if reward != other_reward:
                    pairs += 1
                    won += 0.5 if value == other else float((value > other) == (reward > other_reward))
    return won / pairs if pairs else math.nan
