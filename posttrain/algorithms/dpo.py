"""Direct preference optimisation: learn from pairs of answers without a reward model.

A pair is a prompt x with a chosen answer c and a rejected answer r. What the policy is trained to prefer is measured
against the reference model it started from, by the log-ratio of a whole answer,

    h(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t)

and `beta h(y)` is the answer's implicit reward. The loss of a pair looks at the margin d = h(c) - h(r):

    sigmoid   -log s(beta d)                                        arXiv:2305.18290 eq. 7
    hinge     max(0, 1 - beta d)                                    arXiv:2305.10425
    robust    the sigmoid loss, unbiased when a share e of the      arXiv:2403.00409 eq. 8
              labels is flipped
    ipo       (d' - 1 / (2 beta))^2, d' from means over tokens      arXiv:2310.12036 eq. 17

A small beta lets the policy move far before the loss is satisfied; a large one holds it near the reference.
`sft` adds the chosen answer's negative log-likelihood, per token, which keeps it likely while the margin grows.
The atom is a pair: its two answers hang on one prompt and are never separated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.algorithms.sft import token_metrics
from posttrain.ops.segments import segment_count, segment_sum
from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per


@dataclass(frozen=True, kw_only=True)
class DPOBatch(Batch):
    """Pairs: leaf 2i is the chosen and leaf 2i + 1 the rejected answer of pair i."""

    ref_logprobs: Tensor = per("token")  # [M] float32, log-probabilities under the reference model


def dpo_batch(trees: Sequence[Segment]) -> DPOBatch:
    """The batch of these two-leaf trees, whose leaves carry a column `ref_logprobs`.

    The unit "dpo" counts pairs, the unit "sft" the trained tokens of the chosen answers.
    """
    forest = TokenForest.from_trees(trees)
    return DPOBatch(
        forest=forest,
        atom=forest.sequence // 2,
        ref_logprobs=torch.tensor(
            [value for tree in trees for leaf in tree.leaves() for value in leaf.columns["ref_logprobs"]],
            dtype=torch.float32,
        ),
        units={"dpo": float(len(trees)), "sft": float(sum(forest.trained[0::2]))},
    )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What a loss of preferences may look at: log-ratios h(y) of P pairs, summed and as means over tokens."""

    chosen: Tensor  # [P]
    rejected: Tensor  # [P]
    chosen_mean: Tensor  # [P]
    rejected_mean: Tensor  # [P]


def _sigmoid(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    return -logsigmoid(beta * (pairs.chosen - pairs.rejected))


def _hinge(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    return torch.relu(1 - beta * (pairs.chosen - pairs.rejected))


def _robust(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    margin = beta * (pairs.chosen - pairs.rejected)
    return (-(1 - smoothing) * logsigmoid(margin) + smoothing * logsigmoid(-margin)) / (1 - 2 * smoothing)


def _ipo(pairs: Pairs, beta: float, smoothing: float) -> Tensor:
    return (pairs.chosen_mean - pairs.rejected_mean - 1 / (2 * beta)) ** 2


PREFERENCE_LOSSES: dict[str, Callable[[Pairs, float, float], Tensor]] = {  # (pairs, beta, smoothing) -> [P]
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "robust": _robust,
    "ipo": _ipo,
}


@dataclass(frozen=True, kw_only=True)
class DPOLoss:
    """The weighted sum of the named losses over the pairs of a batch."""

    beta: float = 0.1
    loss_weights: tuple[tuple[str, float], ...] = (("sigmoid", 1.0),)  # names of PREFERENCE_LOSSES, or "sft"
    label_smoothing: float = 0.0

    def __call__(self, batch: DPOBatch, outputs: Outputs) -> Loss:
        forest, count = batch.forest, len(batch.forest.leaves)
        lengths = segment_count(forest.sequence, count)
        ratios = segment_sum(outputs.logprobs - batch.ref_logprobs, forest.sequence, count)
        chosen, rejected = ratios[0::2], ratios[1::2]
        means = ratios / lengths
        pairs = Pairs(chosen=chosen, rejected=rejected, chosen_mean=means[0::2], rejected_mean=means[1::2])
        of_chosen = forest.sequence % 2 == 0
        terms = {}
        for name, weight in self.loss_weights:
            if name == "sft":
                terms["sft"] = -weight * outputs.logprobs[of_chosen].sum()
            else:
                value = PREFERENCE_LOSSES[name](pairs, self.beta, self.label_smoothing).sum() * weight
                terms["dpo"] = terms["dpo"] + value if "dpo" in terms else value
        return Loss(terms=terms, metrics=self._metrics(batch, outputs, pairs, of_chosen))

    def _metrics(self, batch: DPOBatch, outputs: Outputs, pairs: Pairs, of_chosen: Tensor) -> Metrics:
        chosen, rejected = self.beta * pairs.chosen.detach(), self.beta * pairs.rejected.detach()
        logprobs, count = outputs.logprobs.detach(), len(chosen)
        metrics: Metrics = {
            "rewards/chosen": (chosen.sum(), count),
            "rewards/rejected": (rejected.sum(), count),
            "rewards/accuracies": ((chosen > rejected).sum(), count),
            "rewards/margins": ((chosen - rejected).sum(), count),
            "logps/chosen": (logprobs[of_chosen].sum(), count),
            "logps/rejected": (logprobs[~of_chosen].sum(), count),
        }
        tokens = token_metrics(outputs)
        if outputs.correct is not None:  # of the chosen answers only, as TRL has it
            tokens["mean_token_accuracy"] = (outputs.correct[of_chosen].sum(), of_chosen.sum())
        return metrics | tokens
