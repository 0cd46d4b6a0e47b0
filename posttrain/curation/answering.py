"""A stream of prompts answered by a model, each answer in a journal as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from posttrain.config.identity import path_identity
from posttrain.config.sampling import SamplingFields
from posttrain.curation.candidates import Answer, Answered, Ask, Asking, Refused
from posttrain.curation.provenance import provenance, without_provenance
from posttrain.curation.rows import Broken, Row, field_of
from posttrain.data.loading import Rows
from posttrain.errors import DataError, SamplingError
from posttrain.sampling.conversation import room_after
from posttrain.sampling.endpoint import EndpointSampler
from posttrain.sampling.prompt_rows import prompt_rows
from posttrain.types import Completion, Message, Sampler

_FIRST_BLOCK, _LARGEST_BLOCK = 16, 4096  # prompts; in between as many as take about as long as one may lose
_SHORT_S, _LONG_S = 10.0, 40.0
_GIVE_UP = 32  # prompts in a row without an answer


def answer_settings(fields: SamplingFields, count: int) -> dict[str, Any]:
    """What decides the answers, and so may not change when a journal is gone on with."""
    here = fields.endpoint is None
    return {
        "model": fields.model,
        "weights": path_identity(fields.model) if here else None,
        "endpoint": fields.endpoint,
        "system_message": fields.system_message,
        "count": count,
        "seed": fields.seed,
        **fields.sampling(),
        **({"dtype": fields.dtype} if here else {"extra_body": fields.extra_body}),
    }


def answered(
    rows: Iterable[Row | Broken], how: Asking, *, check: Callable[[Sequence[Ask]], None] | None = None
) -> Iterator[Answered | Refused]:
    """Every row with its answers, in order; what asks nothing as Refused.

    Prompts are asked in blocks of some seconds' work. A server's answers are in the journal as they come, those of a
    model here block by block. `check` is shown the first prompts before anything is asked. A prompt that a server
    leaves unanswered is passed on with its failure; SamplingError when that happens to many in a row.
    """
    return answered_asks((_ask(number, row, how) for number, row in enumerate(rows)), how, check=check)


def answered_asks(
    stream: Iterable[Ask | Refused], how: Asking, *, check: Callable[[Sequence[Ask]], None] | None = None
) -> Iterator[Answered | Refused]:
    """The same for prompts that were read already."""
    stream = iter(stream)
    sampler: Sampler | None = None
    size, unanswered = _FIRST_BLOCK, 0
    while block := list(islice(stream, size)):
        asks = [item for item in block if isinstance(item, Ask)]
        if check is not None and asks:
            check(asks)
            check = None
        waiting = [ask for ask in asks if how.journal.find(how.kind, ask.number, ask.key) is None]
        others: Mapping[int, Answered | Refused] = {}
        if how.progress is not None:
            how.progress(how.count * (len(asks) - len(waiting)))
        if waiting:
            sampler = sampler or how.open()
            clock = time.monotonic()
            others = _sample(sampler, waiting, how)
            took = time.monotonic() - clock
            size = min(size * 2, _LARGEST_BLOCK) if took < _SHORT_S else max(size // 2, 1) if took > _LONG_S else size
        for item in block:
            result = item if isinstance(item, Refused) else others.get(item.number) or _kept(item, how)
            yield result
            if isinstance(result, Refused):
                continue
            unanswered = 0 if result.answers else unanswered + 1
            if unanswered >= _GIVE_UP:
                raise SamplingError(
                    f"the last {unanswered} prompts stayed without an answer, such as {result.ask.place}: "
                    f"{result.failure} The answers before are kept; the same command goes on."
                )


def _kept(ask: Ask, how: Asking) -> Answered:
    """The answers that the journal has."""
    kept = how.journal.find(how.kind, ask.number, ask.key)
    return Answered(ask=ask, answers=tuple(Answer(**answer) for answer in kept))


def _ask(number: int, row: Row | Broken, how: Asking) -> Ask | Refused:
    if isinstance(row, Broken):
        return Refused(row=row, step="read", reason=row.reason, field=row.field)
    notes = provenance(row)
    source, line = str(notes.get("source")), int(notes.get("line") or 0)
    rows = Rows(name=source, path=source, records=[without_provenance(row)], lines=[line])
    try:
        (read,) = prompt_rows(rows)
    except DataError as error:
        reason = str(error).removeprefix(f"{rows.where(0)}: ")
        return Refused(row=row, step="prompt", reason=reason, field=field_of(reason))
    if isinstance(read.prompt[0], int):
        reason = "'prompt' is token ids, whose answers are no data to train on; give text or messages"
        return Refused(row=row, step="prompt", field="prompt", reason=reason)
    told: list[Message] = [message for message in read.prompt if isinstance(message, dict)]
    asked = told
    if how.system_message is not None and told[0]["role"] != "system":
        asked = [{"role": "system", "content": how.system_message}, *told]
    return Ask(
        number=number, row=row, prompt=asked, told=asked if how.keep_system else told, columns=read.columns,
        conversation=row.get("prompt") is None and any(row.get(name) for name in ("messages", "conversations")),
    )  # fmt: skip


def _sample(sampler: Sampler, asks: Sequence[Ask], how: Asking) -> dict[int, Answered | Refused]:
    """Puts the answers into the journal; what has none, by the row's number."""
    others: dict[int, Answered | Refused] = {}
    fitting = []
    for ask in asks:
        room = room_after(sampler, ask.prompt)
        if room is None or room >= how.params.max_tokens:
            fitting.append(ask)
        else:
            reason = f"too long: the model has room for {max(room, 0)} tokens after it, fewer than max_tokens"
            others[ask.number] = Refused(row=ask.row, step="prompt", reason=reason)
    if not fitting:
        return others
    done = 0

    def report(now: int, _: int) -> None:
        nonlocal done
        if how.progress is not None:
            how.progress(now - done)
        done = now

    def ask_all() -> list[list[Completion]]:
        return sampler.sample(
            [ask.prompt for ask in fitting], how.params, count=how.count, seed=how.seed,
            keys=[ask.number for ask in fitting], progress=report,
        )  # fmt: skip

    if isinstance(sampler, EndpointSampler):
        failures = _from_server(sampler, fitting, how, ask_all)
        for ask in fitting:
            if ask.number in failures:
                others[ask.number] = Answered(ask=ask, answers=(), failure=failures[ask.number])
        return others
    groups = ask_all()
    spent = {
        "prompt_tokens": sum(group[0].prompt_tokens or 0 for group in groups if group),
        "completion_tokens": sum(len(completion.tokens or ()) for group in groups for completion in group),
    }
    values = [(ask.number, ask.key, _values(group, own=True)) for ask, group in zip(fitting, groups)]
    how.journal.add(how.kind, values, spent=_named(spent, how.kind))
    return others


def _from_server(
    sampler: EndpointSampler, asks: Sequence[Ask], how: Asking, ask_all: Callable[[], Any]
) -> dict[int, str]:
    """The failures by the row's number; the answers are in the journal as they come, with what they cost."""
    failures: dict[int, str] = {}
    counted = _usage(sampler)

    def spent() -> dict[str, int]:
        nonlocal counted
        earlier, counted = counted, _usage(sampler)
        return _named({name: value - earlier[name] for name, value in counted.items()}, how.kind)

    def keep(index: int, group: list[Completion]) -> None:
        ask = asks[index]
        how.journal.add(how.kind, [(ask.number, ask.key, _values(group, own=False))], spent=spent())

    def fail(index: int, error: SamplingError) -> None:
        failures[asks[index].number] = str(error)

    before = sampler.on_group, sampler.on_failure
    sampler.on_group, sampler.on_failure = keep, fail
    try:
        ask_all()
    finally:
        sampler.on_group, sampler.on_failure = before
        how.journal.add(how.kind, [], spent=spent())  # what failed and what was repeated costs, too
    return failures


def _values(group: Sequence[Completion], *, own: bool) -> list[dict[str, Any]]:
    """The answers as the journal holds them; tokens where the sampler wrote them itself."""
    return [
        {
            "number": number,
            "text": completion.text.strip(),
            "finished": completion.finish_reason == "stop",
            "tokens": len(completion.tokens) if own and completion.tokens is not None else None,
        }
        for number, completion in enumerate(group)
    ]


def _named(spent: Mapping[str, int], kind: str) -> dict[str, int]:
    """What was spent, under names that tell an editor's tokens from the model's."""
    return {name if kind == "answers" else f"{kind}_{name}": value for name, value in spent.items()}


def _usage(server: EndpointSampler) -> dict[str, int]:
    usage = server.usage
    return {
        "requests": usage.requests, "retries": usage.retries,
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
    }  # fmt: skip
