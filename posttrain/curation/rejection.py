"""Rejection sampling: several answers to each prompt, the best of them kept; and which prompts are too easy or hard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from posttrain.curation.answering import answered
from posttrain.curation.candidates import Answer, Asking, distinct
from posttrain.curation.card import Card
from posttrain.curation.funnel import Funnel
from posttrain.curation.kinds import same_kind
from posttrain.curation.provenance import noted
from posttrain.curation.rows import Broken, Row
from posttrain.curation.scores import RewardScorer, Scorer, Scores, scored
from posttrain.curation.sinks import Collected, Sink, prompts_of
from posttrain.errors import ConfigError
from posttrain.stats.intervals import Interval, bootstrap_mean, wilson
from posttrain.stats.passk import pass_at_k
from posttrain.types import Sampler, SamplingParams

Keep = Literal["best", "above", "first"]
Band = Literal["unsolved", "mixed", "solved"]
BANDS = {"unsolved": "0", "hard": "up to 25%", "medium": "up to 75%", "easy": "below 100%", "solved": "100%"}
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which answers are kept."""

    keep: Keep = "best"
    threshold: float | None = None  # what a kept answer's score is at least
    k: int = 4  # answers to a prompt at most with `first`
    keep_unfinished: bool = False


@dataclass(kw_only=True)
class Difficulty:
    """How many answers to each prompt are right, over prompts whose answers were all judged."""

    count: int  # answers to each prompt
    solved_at: float
    prompts: np.ndarray = field(init=False)  # [count + 1] prompts with so many right answers
    unjudged: int = 0  # prompts with an answer that could not be judged

    def __post_init__(self) -> None:
        self.prompts = np.zeros(self.count + 1, dtype=np.int64)

    def add(self, totals: Sequence[float | None]) -> tuple[Band | None, float | None]:
        """Whether nobody, somebody or everybody solves a prompt, and the share; None where that is not known."""
        known = [total for total in totals if total is not None]
        if len(known) < len(totals):
            self.unjudged += 1
            return None, None
        right = sum(total >= self.solved_at for total in known)
        self.prompts[right] += 1
        return "unsolved" if right == 0 else "solved" if right == len(known) else "mixed", right / len(known)

    def pass_at(self, k: int) -> Interval | None:
        """pass@k with its bootstrap interval over prompts."""
        if not self.prompts.sum():
            return None
        values = np.array([pass_at_k(self.count, right, k) for right in range(self.count + 1)])
        return bootstrap_mean(np.repeat(values, self.prompts).tolist(), resamples=_RESAMPLES)

    def bands(self) -> dict[str, int]:
        """Prompts by the share of right answers."""
        shares = np.arange(self.count + 1) / self.count
        inner = (shares > 0) & (shares < 1)
        masks = {
            "unsolved": shares == 0,
            "hard": inner & (shares <= 0.25),
            "medium": inner & (shares > 0.25) & (shares <= 0.75),
            "easy": inner & (shares > 0.75),
            "solved": shares == 1,
        }
        return {name: int(self.prompts[mask].sum()) for name, mask in masks.items()}

    def write(self, card: Card) -> None:
        """Puts pass@k and the bands into the card."""
        ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, self.count) if k <= self.count})
        for k in ks:
            if (found := self.pass_at(k)) is not None:
                card.counts[f"pass@{k}"] = found.percent()
        bands, total = self.bands(), int(self.prompts.sum())
        card.counts |= {f"prompts {name} ({BANDS[name]} right)": number for name, number in bands.items()}
        if self.unjudged:
            card.counts["prompts not wholly judged"] = self.unjudged
        if total:
            equal = wilson(bands["unsolved"] + bands["solved"], total)
            card.notes.append(
                f"{equal.percent()} of the prompts have answers that are all right or all wrong. Reinforcement "
                "learning with this reward learns from neither; train it on the prompts in between."
            )


def reject_sampled(
    rows: Iterable[Row | Broken],
    how: Asking,
    scorer: Scorer,
    sink: Sink,
    rule: Rule,
    *,
    solved_at: float | None = None,
    listed: Callable[[Band, Row], None] = lambda band, row: None,
) -> Difficulty | None:
    """Puts the kept answers into the sink; prompts without one are rejected with the reason.

    `solved_at` is the score of a right answer, for pass@k; None is the threshold, and where that is None too there is
    no pass@k. `listed` is told each prompt whose answers were all judged, and whether nobody, somebody or everybody
    solves it.
    """
    bar = rule.threshold if solved_at is None else solved_at
    difficulty = None if bar is None else Difficulty(count=how.count, solved_at=bar)
    funnel = Funnel(sink.card, how.journal)
    unfinished = unjudged = 0
    for item in scored(answered(rows, how, check=scorer.check), scorer, how.journal):
        if not isinstance(item, tuple):
            funnel.arrived(item, sink)
            continue
        group, scores = item
        funnel.arrived(group, sink)
        share = None
        if difficulty is not None:
            band, share = difficulty.add(scores.total)
            if band is not None:
                listed(band, noted(group.ask.row, pass_rate=share, model=how.name, count=how.count))
        unfinished += sum(not answer.finished for answer in group.answers)
        unjudged += sum(total is None for total in scores.total)
        kept, step, reason = chosen(group.answers, scores, rule)
        if not kept:
            funnel.drop(step, f"{group.ask.place}: {reason}")
            funnel.failed += step == "judged" and bool(scores.reasons)
            sink.reject(noted(group.ask.row, scores=scores.by_name), step=step, reason=reason)
        for place, answer in enumerate(kept):
            row = how.noted(group.ask.with_answer(answer.text), answer, scores=scores.notes(answer.number))
            if share is not None:
                row = noted(row, pass_rate=share)
            sink.keep(row, consumed=int(place == len(kept) - 1))
    funnel.finish(("judged", "finished", "threshold"), unit="prompts", start=funnel.answered)
    sink.card.counts |= {"answers cut off": unfinished, "answers not judged": unjudged}
    if difficulty is not None:
        difficulty.write(sink.card)
    return difficulty


def chosen(answers: Sequence[Answer], scores: Scores, rule: Rule) -> tuple[list[Answer], str, str]:
    """The answers that are kept; where there is none, the step that left nothing, and why.

    Of answers that are equally good the first is best. Equal texts are one answer.
    """
    judged = [(total, answer) for answer in answers if (total := scores.total[answer.number]) is not None]
    if not judged:
        return [], "judged", scores.why_not(answers[0].number)
    whole = [(total, answer) for total, answer in judged if rule.keep_unfinished or answer.finished]
    whole = [(total, answer) for total, answer in whole if answer.text]
    if not whole:
        return [], "finished", f"all of {len(answers)} answers were cut off at max_tokens or are empty"
    reaching = [(t, answer) for t, answer in whole if rule.threshold is None or t >= rule.threshold]
    if not reaching:
        best = max(total for total, _ in whole)
        return [], "threshold", f"the best of {len(answers)} answers scores {best:g}, below {rule.threshold:g}"
    if rule.keep == "best":
        return [max(reaching, key=lambda pair: pair[0])[1]], "", ""
    different = distinct(answer for _, answer in reaching)
    return different if rule.keep == "above" else different[: rule.k], "", ""


def reject_sample(
    prompts: Any,
    sampler: Sampler,
    reward: Any,
    *,
    threshold: float | None,
    count: int = 8,
    keep: Keep = "best",
    k: int = 4,
    solved_at: float | None = None,
    params: SamplingParams | None = None,
    seed: int = 0,
    system_message: str | None = None,
    keep_system: bool = True,
    keep_unfinished: bool = False,
) -> tuple[Any, Card]:
    """The kept answers as rows to imitate, in the kind that the prompts are, and what became of them, pass@k included.

    `reward` is whatever a `RewardSet` takes: a function, a name, a list of them. With `threshold=None` the best answer
    is kept whatever it is worth, which for a reward that is 0 or 1 keeps wrong answers.
    """
    from posttrain.rewards.combination import RewardSet

    if keep != "best" and threshold is None:
        raise ConfigError(f"keep={keep!r} needs a threshold, such as 1 where the reward gives 0 or 1")
    how = Asking.of(
        sampler, count=count, params=params, seed=seed, system_message=system_message, keep_system=keep_system
    )
    sink = Collected("reject-sample")
    rule = Rule(keep=keep, threshold=threshold, k=k, keep_unfinished=keep_unfinished)
    with RewardSet(reward) as rewards:
        reject_sampled(prompts_of(prompts), how, RewardScorer(rewards), sink, rule, solved_at=solved_at)
    return same_kind(sink.rows, prompts), sink.card
