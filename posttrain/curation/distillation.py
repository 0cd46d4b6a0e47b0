"""Distillation: a stronger model's answers to prompts, as rows to imitate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from posttrain.curation.answering import answered
from posttrain.curation.candidates import Answer, Answered, Asking
from posttrain.curation.card import Card
from posttrain.curation.funnel import Funnel
from posttrain.curation.kinds import same_kind
from posttrain.curation.provenance import noted
from posttrain.curation.rows import Broken, Row
from posttrain.curation.sinks import Collected, Sink, prompts_of
from posttrain.types import Sampler, SamplingParams


def distil(
    rows: Iterable[Row | Broken], how: Asking, sink: Sink, *, keep_unfinished: bool = False, distinct: bool = True
) -> None:
    """Puts the model's answers into the sink, and why others are not there.

    An answer that was cut off, is empty, or repeats another to the same prompt is rejected; a prompt without an answer
    is rejected as `answer`, and counted as failed.
    """
    funnel = Funnel(sink.card, how.journal)
    for item in answered(rows, how):
        group = funnel.arrived(item, sink)
        if group is not None:
            _decide(group, how, sink, funnel, keep_unfinished, distinct)
    funnel.finish(("finished", "not empty", *(("distinct",) if distinct else ())))


def distill(
    prompts: Any,
    sampler: Sampler,
    *,
    count: int = 1,
    params: SamplingParams | None = None,
    seed: int = 0,
    system_message: str | None = None,
    keep_system: bool = True,
    keep_unfinished: bool = False,
    distinct: bool = True,
) -> tuple[Any, Card]:
    """The sampler's answers to the prompts as rows to imitate, in the kind that the prompts are, and what became of
    them.

    `prompts` is a `datasets.Dataset` or a list of rows or texts. Rows with `messages` give `messages`, others `prompt`
    and `completion`. With `keep_system=False` the system message is not in the rows, so that a model learns to answer
    as if it had been told.
    """
    how = Asking.of(
        sampler, count=count, params=params, seed=seed, system_message=system_message, keep_system=keep_system
    )
    sink = Collected("distill")
    distil(prompts_of(prompts), how, sink, keep_unfinished=keep_unfinished, distinct=distinct)
    return same_kind(sink.rows, prompts), sink.card


def _decide(group: Answered, how: Asking, sink: Sink, funnel: Funnel, keep_unfinished: bool, distinct: bool) -> None:
    seen: set[str] = set()
    passed = ["finished"] * (not keep_unfinished) + ["not empty"] + ["distinct"] * distinct
    last = len(group.answers) - 1
    for place, answer in enumerate(group.answers):
        row = how.noted(group.ask.with_answer(answer.text), answer)
        step, reason = _fault(answer, keep_unfinished, seen if distinct else set())
        consumed = int(place == last)
        if step:
            funnel.drop(step, f"{group.ask.place}: {answer.text}")
            sink.reject(row, step=step, reason=reason, consumed=consumed)
        else:
            seen.add(answer.text)
            sink.keep(noted(row, passed=passed), consumed=consumed)


def _fault(answer: Answer, keep_unfinished: bool, seen: set[str]) -> tuple[str, str]:
    if not answer.finished and not keep_unfinished:
        return "finished", "cut off at max_tokens"
    if not answer.text:
        return "not empty", "the answer is empty"
    return ("distinct", "equal to another answer to the same prompt") if answer.text in seen else ("", "")
