"""A reward model measured on pairs it was not trained on: accuracy, calibration, and what length alone would give."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain.algorithms.reward import RewardLoss, reward_batch
from posttrain.config.dataset import DatasetConfig
from posttrain.engine.evaluation import Evaluating, evaluate_loss
from posttrain.stats.calibration import (
    Reliability,
    alike_in_length,
    length_only_accuracy,
    longer_is_better,
    reliability,
)
from posttrain.stats.intervals import Interval, wilson
from posttrain.stats.paired import Paired, mcnemar
from posttrain.trainers.assembly import Assembled
from posttrain.types import Batch, Loss, Outputs, Segment

FILE = "calibration.json"
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a reward model was found to be worth on held-out pairs."""

    accuracy: Interval  # share of pairs whose chosen answer has the higher score
    length_accuracy: float  # of a rule that knows only which answer is longer
    longer: bool  # which way that rule goes
    against_length: Paired  # that rule first, the model second, on the same pairs; equal lengths count as right
    alike: Interval | None  # the accuracy on pairs of about equal length, where there are any
    reliability: Reliability

    def text(self) -> str:
        """A few lines for a person."""
        rule = "longer" if self.longer else "shorter"
        lines = [
            f"held-out pairs: {self.accuracy.percent()} of {self.accuracy.n:,} right; preferring the {rule} answer "
            f"gives {100 * self.length_accuracy:.1f}%. Brier score {self.reliability.brier:.3f} (one half says 0.25), "
            f"calibration error {self.reliability.ece:.3f}.",
        ]
        if self.alike is not None:
            lines.append(f"Of the {self.alike.n:,} pairs of about equal length {self.alike.percent()}.")
        if self.against_length.difference <= 0 or self.against_length.p_value > LEVEL:
            lines.append(
                "On all pairs that is not distinguishable from length alone: a policy that is optimised against these "
                f"scores may learn to write {rule} answers and nothing else."
            )
        return "\n".join([*lines, self.reliability.text()])


class HeldOutPairs:
    """Evaluates a reward model on pairs; `latest` is what it found last."""

    def __init__(
        self,
        assembled: Assembled,
        trees: Sequence[Segment],
        loss: RewardLoss,
        *,
        trained: Sequence[Segment] | None = None,
    ) -> None:
        """`trained` are the pairs that are trained on: from them the rule of lengths learns which way it goes."""
        self._assembled, self._trees, self._loss = assembled, trees, loss
        self._longer = longer_is_better(*_lengths(trained if trained is not None else trees))
        self.latest: HeldOut | None = None

    def __call__(self) -> dict[str, float]:
        """The metrics of the pairs, with the prefix `eval_`; the bins are written to calibration.json."""
        runtime, budget = self._assembled.runtime, self._assembled.budget
        share = self._trees[runtime.rank :: runtime.world_size]
        batch: Batch = reward_batch(share) if share else reward_batch(self._trees[:1]).nothing()
        if not share:
            batch.units.update(dict.fromkeys(batch.units, 0.0))
        kept: list[Tensor] = []

        def loss(part: Batch, outputs: Outputs) -> Loss:
            if outputs.scores is not None:
                kept.append(outputs.scores.detach().cpu())
            return self._loss(part, outputs)  # type: ignore[arg-type]

        config = self._assembled.config
        assert isinstance(config, DatasetConfig)
        metrics = evaluate_loss(
            self._assembled.learner, batch, loss, runtime=runtime, max_tokens=budget.max_tokens,
            how=Evaluating.of(config),
        )  # fmt: skip
        if config.prediction_loss_only:
            return metrics
        everyone = runtime.gather_objects(torch.cat(kept).tolist())
        gaps = []
        for index in range(len(self._trees)):  # pair i went to process i mod processes
            mine, place = everyone[index % runtime.world_size], 2 * (index // runtime.world_size)
            gaps.append(mine[place] - mine[place + 1])
        if not all(map(math.isfinite, gaps)):
            return metrics
        chosen, rejected = _lengths(self._trees)
        right = [gap > 0 for gap in gaps]
        by_length = [a == b or (a > b) == self._longer for a, b in zip(chosen, rejected)]
        alike = [mine for mine, same in zip(right, alike_in_length(chosen, rejected)) if same]
        self.latest = found = HeldOut(
            accuracy=wilson(sum(right), len(right)),
            length_accuracy=length_only_accuracy(chosen, rejected, longer=self._longer),
            longer=self._longer,
            against_length=mcnemar(by_length, right),
            alike=wilson(sum(alike), len(alike)) if alike else None,
            reliability=reliability([_sigmoid(gap) for gap in gaps]),
        )
        if runtime.is_main:
            directory = Path(self._assembled.config.output_dir)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / FILE).write_text(json.dumps(_plain(found), indent=1))
        if found.alike is not None:
            metrics["eval_alike_accuracy"] = found.alike.estimate
        return metrics | {
            "eval_length_accuracy": found.length_accuracy,
            "eval_brier": found.reliability.brier,
            "eval_ece": found.reliability.ece,
        }


def _lengths(trees: Sequence[Segment]) -> tuple[list[int], list[int]]:
    """Tokens of the chosen and of the rejected answers."""
    pairs = [[len(leaf.tokens) for leaf in tree.leaves()] for tree in trees]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _plain(found: HeldOut) -> dict[str, object]:
    bins = [asdict(b) for b in found.reliability.bins if b.count]
    return {
        "pairs": found.accuracy.n,
        "accuracy": found.accuracy.estimate,
        "accuracy_95": [found.accuracy.low, found.accuracy.high],
        "length_accuracy": found.length_accuracy,
        "length_p_value": found.against_length.p_value,
        "alike_pairs": found.alike.n if found.alike is not None else 0,
        "alike_accuracy": found.alike.estimate if found.alike is not None else None,
        "brier": found.reliability.brier,
        "ece": found.reliability.ece,
        "bins": bins,
    }
