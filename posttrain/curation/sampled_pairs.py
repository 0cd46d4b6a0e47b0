"""Pairs by sampling: a model's better answers to a prompt against its worse ones, as a judge says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.curation.answering import answered
from posttrain.curation.candidates import Answer, Answered, Asking, distinct
from posttrain.curation.card import Card
from posttrain.curation.funnel import Funnel
from posttrain.curation.kinds import same_kind
from posttrain.curation.pairing import Pairing, pairs_of
from posttrain.curation.provenance import provenance
from posttrain.curation.rows import PROVENANCE, Broken, Row
from posttrain.curation.scores import JudgeScorer, RewardScorer, Scorer, Scores, scored
from posttrain.curation.sides import Sides
from posttrain.curation.sinks import Collected, Sink, prompts_of
from posttrain.types import Sampler, SamplingParams

_STEPS = ("finished", "judged", "different", "apart")


def sample_pairs(
    rows: Iterable[Row | Broken],
    how: Asking,
    scorer: Scorer,
    sink: Sink,
    *,
    pairing: Pairing = "best_worst",
    margin: float = 0.0,
    max_pairs: int | None = None,
    keep_unfinished: bool = False,
) -> None:
    """Puts the pairs into the sink; a prompt without one is rejected with the reason."""
    funnel, sides = Funnel(sink.card, how.journal), Sides()
    pairs = 0
    for item in scored(answered(rows, how, check=scorer.check), scorer, how.journal):
        if not isinstance(item, tuple):
            funnel.arrived(item, sink)
            continue
        group, scores = item
        funnel.arrived(group, sink)
        found, step, reason = _pairs(group, scores, pairing, margin, max_pairs, keep_unfinished)
        if not found:
            funnel.drop(step, f"{group.ask.place}: {reason}")
            funnel.failed += step == "judged" and bool(scores.reasons)
            sink.reject(group.ask.row, step=step, reason=reason)
        for place, (better, worse) in enumerate(found):
            sides.add(better.text, worse.text)
            pairs += 1
            row = _row(group, how, scores, better, worse)
            sink.keep(row, consumed=int(place == len(found) - 1))
    funnel.finish(_STEPS, unit="prompts", start=funnel.answered)
    sink.card.counts["pairs"] = pairs
    sides.write(sink.card)


def answers_to_judge(rows: Iterable[Row | Broken], how: Asking, sink: Sink, *, keep_unfinished: bool = False) -> None:
    """Puts {"prompt", "answers": [{"text", "model", ...}]} into the sink, for people to judge.

    A prompt with fewer than two different answers is rejected.
    """
    funnel = Funnel(sink.card, how.journal)
    for item in answered(rows, how):
        group = funnel.arrived(item, sink)
        if group is None:
            continue
        usable, step, reason = _usable(group, keep_unfinished)
        if len(usable) < 2:
            funnel.drop(step, f"{group.ask.place}: {reason}")
            sink.reject(group.ask.row, step=step, reason=reason)
            continue
        answers = [{"text": answer.text, "model": how.name, **answer.notes} for answer in usable]
        sink.keep({"prompt": group.ask.told, "answers": answers, PROVENANCE: _notes(group, how)})
    funnel.finish(("finished", "different"), unit="prompts", start=funnel.answered)


def _usable(group: Answered, keep_unfinished: bool) -> tuple[list[Answer], str, str]:
    """The different answers that may be in a pair, each text once; where they are too few, the step and why."""
    whole = [answer for answer in group.answers if answer.text and (answer.finished or keep_unfinished)]
    if len(whole) < 2:
        return [], "finished", f"{len(whole)} of {len(group.answers)} answers ended by themselves and are not empty"
    return distinct(whole), "different", "all answers are the same"


def _pairs(
    group: Answered, scores: Scores, pairing: Pairing, margin: float, max_pairs: int | None, keep_unfinished: bool
) -> tuple[Sequence[tuple[Answer, Answer]], str, str]:
    usable, step, reason = _usable(group, keep_unfinished)
    if not usable:
        return [], step, reason
    judged = [(answer, total) for answer in usable if (total := scores.total[answer.number]) is not None]
    if len(usable) > 1 and len(judged) < 2:
        unknown = next(answer for answer in usable if scores.total[answer.number] is None)
        return [], "judged", scores.why_not(unknown.number)
    if len(usable) < 2:
        return [], step, reason
    found = pairs_of([total for _, total in judged], pairing, margin=margin, max_pairs=max_pairs)
    widest = max(total for _, total in judged) - min(total for _, total in judged)
    reason = f"the scores of {len(judged)} answers lie {widest:g} apart" + ("" if widest else ": a tie")
    return [(judged[a][0], judged[b][0]) for a, b in found], "apart", reason


def _row(group: Answered, how: Asking, scores: Scores, better: Answer, worse: Answer) -> Row:
    notes = {
        **_notes(group, how),
        "chosen": {**better.notes, "scores": scores.notes(better.number), "score": scores.total[better.number]},
        "rejected": {**worse.notes, "scores": scores.notes(worse.number), "score": scores.total[worse.number]},
    }
    return {
        "prompt": group.ask.told,
        "chosen": [{"role": "assistant", "content": better.text}],
        "rejected": [{"role": "assistant", "content": worse.text}],
        PROVENANCE: notes,
    }


def _notes(group: Answered, how: Asking) -> dict[str, Any]:
    return {**provenance(group.ask.row), **how.notes}


def pairs_sample(
    prompts: Any,
    sampler: Sampler,
    judge: Any,
    *,
    count: int = 8,
    pairing: Pairing = "best_worst",
    margin: float = 0.0,
    max_pairs: int | None = None,
    params: SamplingParams | None = None,
    seed: int = 0,
    system_message: str | None = None,
    keep_system: bool = True,
    keep_unfinished: bool = False,
) -> tuple[Any, Card]:
    """Preference rows from the sampler's own answers, in the kind that the prompts are, and what became of them.

    `judge` is whatever a `RewardSet` takes, or a `PairwiseJudge`, who is shown every two answers in both orders.
    """
    from posttrain.rewards.combination import RewardSet
    from posttrain.rewards.judge import PairwiseJudge

    how = Asking.of(
        sampler, count=count, params=params, seed=seed, system_message=system_message, keep_system=keep_system
    )
    sink = Collected("pairs sample")
    options: dict[str, Any] = {
        "pairing": pairing, "margin": margin, "max_pairs": max_pairs, "keep_unfinished": keep_unfinished,
    }  # fmt: skip
    if isinstance(judge, PairwiseJudge):
        sample_pairs(prompts_of(prompts), how, JudgeScorer(judge), sink, **options)
    else:
        with RewardSet(judge) as rewards:
            sample_pairs(prompts_of(prompts), how, RewardScorer(rewards), sink, **options)
    return same_kind(sink.rows, prompts), sink.card
