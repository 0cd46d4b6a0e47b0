"""What predicts, before training, that DPO makes the chosen answers less likely too (likelihood displacement)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from posttrain.models.learner import Learner
    from posttrain.types import Segment


@dataclass(frozen=True, kw_only=True)
class PairOutlook:
    """A pair as the model that is to be trained sees it."""

    place: str
    chosen_logprob: float  # nats, of the whole answer
    rejected_logprob: float
    chosen_tokens: int
    rejected_tokens: int
    ches: float
    ches_normalised: float

    @property
    def gap(self) -> float:
        """By how many nats the model prefers the chosen answer."""
        return self.chosen_logprob - self.rejected_logprob

    def as_dict(self) -> dict[str, Any]:
        """The pair as plain values for JSON."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()} | {
            "gap": round(self.gap, 4)
        }


def ches(chosen: Tensor, rejected: Tensor) -> tuple[float, float]:
    """The centred hidden embedding similarity of a pair, and its length-normalised form (arXiv:2410.08847, def. 2).

    With hₖ the state that predicts token k, S⁺ = Σₖ hₖ over the chosen answer [T, H] and S⁻ over the rejected one:
    CHES = ⟨S⁺, S⁻⟩ - ‖S⁺‖², and normalised ⟨S⁺, S⁻⟩ / (T⁺T⁻) - ‖S⁺‖² / (T⁺)². The higher, the more the two answers'
    gradients pull at the same states, and the more the chosen one falls with the rejected one.
    """
    plus, minus = chosen.double().sum(dim=0), rejected.double().sum(dim=0)
    longer, shorter = len(chosen), len(rejected)
    product, square = float(plus @ minus), float(plus @ plus)
    return product - square, product / (longer * shorter) - square / longer**2


def outlooks(
    trees: Sequence[Segment], places: Sequence[str], learner: Learner, *, max_tokens: int = 2048
) -> list[PairOutlook]:
    """Each pair's log-probabilities and CHES under the model, in order; two forward passes, no gradient.

    The trees are those of `preference_trees`: a prompt, the chosen leaf, the rejected leaf.
    """
    import torch

    from posttrain.types import Batch, TokenForest

    if not trees:
        return []
    device, was_training = next(learner.parameters()).device, learner.training
    learner.eval()
    forest = TokenForest.from_trees(trees)
    batch = Batch(forest=forest, atom=forest.sequence // 2, units={})
    found: list[PairOutlook] = []
    with torch.no_grad():
        for part in batch.cut(max_tokens):
            moved = part.forest.to(device)
            logprobs = learner(moved).logprobs.double().cpu().split(list(moved.trained))
            states = learner.states(moved).float().cpu().split(list(moved.trained))
            for chosen in range(0, len(moved.trained), 2):
                score, normalised = ches(states[chosen], states[chosen + 1])
                found.append(
                    PairOutlook(
                        place=places[len(found)],
                        chosen_logprob=float(logprobs[chosen].sum()),
                        rejected_logprob=float(logprobs[chosen + 1].sum()),
                        chosen_tokens=moved.trained[chosen],
                        rejected_tokens=moved.trained[chosen + 1],
                        ches=score,
                        ches_normalised=normalised,
                    )
                )
    learner.train(was_training)
    return found
