"""The pairs behind likelihood displacement: those whose answers the model has come to find unlikely, both of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from posttrain.engine.alarms import Alarm, Watch
from posttrain.engine.history import Entries
from posttrain.models.learner import Learner
from posttrain.models.reference import tree_logprobs
from posttrain.types import Segment

SAMPLE = 64  # pairs that are looked at
NAMED = 3  # pairs that an alarm names
SHOWN = 60  # characters of an answer


@dataclass(frozen=True, kw_only=True)
class DisplacedPair:
    """A pair and the log-probabilities of its answers, under the reference and now, in nats."""

    row: int  # of the dataset, counted from 1
    chosen: str
    rejected: str
    chosen_before: float
    chosen_now: float
    rejected_before: float
    rejected_now: float

    @property
    def fall(self) -> float:
        """What the likelier of the two answers lost: max before - max now."""
        return max(self.chosen_before, self.rejected_before) - max(self.chosen_now, self.rejected_now)

    def text(self) -> str:
        """One line for a person."""
        return (
            f"row {self.row}: chosen {_short(self.chosen)} ({self.chosen_before:.1f} to {self.chosen_now:.1f} nats), "
            f"rejected {_short(self.rejected)} ({self.rejected_before:.1f} to {self.rejected_now:.1f})"
        )


def displaced_pairs(
    trees: Sequence[Segment],
    rows: Sequence[int],
    learner: Learner,
    tokenizer: Any,
    *,
    sample: int = SAMPLE,
    max_tokens: int = 1024,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[DisplacedPair]:
    """Pairs at even distances through the data, the one whose likelier answer lost most first; one pass, no gradient.

    The trees are those that DPO trains on, with the column `ref_logprobs`; `rows` are their rows, counted from 0.
    """
    count = min(sample, len(trees))
    places = [i * len(trees) // count for i in range(count)]
    chosen_trees = [trees[place] for place in places]
    found = []
    for place, tree, now in zip(places, chosen_trees, tree_logprobs(chosen_trees, learner, max_tokens, autocast)):
        chosen, rejected = tree.leaves()
        before = [sum(leaf.columns["ref_logprobs"]) for leaf in (chosen, rejected)]
        middle = len(chosen.columns["ref_logprobs"])
        found.append(
            DisplacedPair(
                row=rows[place] + 1,
                chosen=_answer(chosen, tokenizer),
                rejected=_answer(rejected, tokenizer),
                chosen_before=before[0],
                chosen_now=sum(now[:middle]),
                rejected_before=before[1],
                rejected_now=sum(now[middle:]),
            )
        )
    return sorted(found, key=lambda pair: -pair.fall)


def naming_pairs(watch: Watch, find: Callable[[], Sequence[DisplacedPair]]) -> Watch:
    """The watch, with the worst pairs named where it raises `displacement`; only then are they looked for."""

    def named(alarm: Alarm) -> Alarm:
        if alarm.name != "displacement":
            return alarm
        pairs = find()
        worst = "; ".join(pair.text() for pair in pairs[:NAMED])
        return replace(alarm, text=f"{alarm.text} Most displaced of {len(pairs)} pairs looked at: {worst}.")

    def watching(history: Entries) -> list[Alarm]:
        return [named(alarm) for alarm in watch(history)]

    return watching


def _answer(leaf: Segment, tokenizer: Any) -> str:
    return tokenizer.decode(
        [t for begin, end in leaf.trained for t in leaf.tokens[begin:end]], skip_special_tokens=True
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
