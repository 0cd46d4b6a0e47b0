"""Direct preference optimisation: learn from pairs of answers without a reward model.

A pair is a prompt x with a chosen answer c and a rejected answer r. What the policy is trained to prefer is measured
against the reference model it started from, by the log-ratio of a whole answer,

    h(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t)

and `beta h(y)` is the answer's implicit reward. The loss of a pair looks at the margin d = h(c) - h(r), with s the
sigmoid (arXiv:2305.18290 eq. 7):

    -log s(beta d)

A small beta lets the policy move far before the loss is satisfied; a large one holds it near the reference. The other
losses that pairs may have, those of a policy without a reference among them, are in preference_losses.py.
`sft` adds the chosen answer's negative log-likelihood, per token, which keeps it likely while the margin grows.
The atom is a pair: its two answers hang on one prompt and are never separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.algorithms.preference_losses import (
    DIVERGENCES,
    PREFERENCE_LOSSES,
    Pairs,
    PairSettings,
    shared_length_weights,
)
from posttrain.algorithms.sft import token_metrics
from posttrain.ops.segments import segment_count, segment_sum
from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per


@dataclass(frozen=True, kw_only=True)
class DPOBatch(Batch):
    """Pairs: leaf 2i is the chosen and leaf 2i + 1 the rejected answer of pair i."""

    ref_logprobs: Tensor | None = per("token")  # [M] float32, under the reference model; None: h(y) is log p(y)


def dpo_batch(trees: Sequence[Segment]) -> DPOBatch:
    """The batch of these two-leaf trees, whose leaves carry a column `ref_logprobs`, or none where none does.

    The unit "dpo" counts pairs, the unit "sft" the trained tokens of the chosen answers.
    """
    forest = TokenForest.from_trees(trees)
    columns = [leaf.columns.get("ref_logprobs") for tree in trees for leaf in tree.leaves()]
    known = [column for column in columns if column is not None]
    if known and len(known) < len(columns):
        raise ValueError("ref_logprobs on some answers and not on others")
    return DPOBatch(
        forest=forest,
        atom=forest.sequence // 2,
        ref_logprobs=torch.tensor([v for column in known for v in column], dtype=torch.float32) if known else None,
        units={"dpo": float(len(trees)), "sft": float(sum(forest.trained[0::2]))},
    )


@dataclass(frozen=True, kw_only=True)
class DPOLoss(PairSettings):
    """The weighted sum of the named losses over the pairs of a batch."""

    loss_weights: tuple[tuple[str, float], ...] = (("sigmoid", 1.0),)  # names of PREFERENCE_LOSSES, or "sft"
    f_divergence_type: str = "reverse_kl"  # a name of DIVERGENCES
    f_alpha_divergence_coef: float = 0.5
    ld_alpha: float | None = None  # weight of the tokens that only the longer answer of a pair has
    use_weighting: bool = False  # a pair counts as much as the policy would write it, arXiv:2406.11827 eq. 2
    mean_rewards: bool = False  # whether `rewards/` are of means over tokens

    @property
    def needs(self) -> tuple[str, ...]:
        """What the learner must give beside log-probabilities."""
        return ("log_collision",) if self.use_weighting else ()

    def __call__(self, batch: DPOBatch, outputs: Outputs) -> Loss:
        forest, count = batch.forest, len(batch.forest.leaves)
        lengths = segment_count(forest.sequence, count)
        logprobs = outputs.logprobs
        reference = 0.0 if batch.ref_logprobs is None else batch.ref_logprobs
        weights = 1.0 if self.ld_alpha is None else shared_length_weights(forest, self.ld_alpha)
        ratios = segment_sum(weights * (logprobs - reference), forest.sequence, count)
        scores = DIVERGENCES[self.f_divergence_type](ratios, self.f_alpha_divergence_coef)
        means = scores / lengths
        pairs = Pairs(chosen=scores[0::2], rejected=scores[1::2], chosen_mean=means[0::2], rejected_mean=means[1::2])
        of_chosen = forest.sequence % 2 == 0
        share = self._likelihood(outputs, forest, lengths) if self.use_weighting else 1.0
        terms = {}
        for name, weight in self.loss_weights:
            if name == "sft":
                terms["sft"] = -weight * logprobs[of_chosen].sum()
            else:
                value = (PREFERENCE_LOSSES[name](pairs, self) * share).sum() * weight
                terms["dpo"] = terms["dpo"] + value if "dpo" in terms else value
        rewards = self.beta * (ratios / lengths if self.mean_rewards else ratios).detach()
        return Loss(terms=terms, metrics=_metrics(outputs, rewards, (weights * logprobs).detach(), of_chosen))

    def _likelihood(self, outputs: Outputs, forest: TokenForest, lengths: Tensor) -> Tensor:
        """[P]: WPO's weight, exp of the mean over tokens of log p(y_t) - log sum_v p(v)^2, of both answers."""
        if outputs.log_collision is None:
            raise ValueError("use_weighting needs log_collision of the learner")
        aligned = (outputs.logprobs - outputs.log_collision).detach()
        weights = (segment_sum(aligned, forest.sequence, len(lengths)) / lengths).exp()
        return weights[0::2] * weights[1::2]


def _metrics(outputs: Outputs, rewards: Tensor, logprobs: Tensor, of_chosen: Tensor) -> Metrics:
    chosen, rejected = rewards[0::2], rewards[1::2]
    count = len(chosen)
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
