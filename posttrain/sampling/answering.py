"""Answers to many prompts, put into a file as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.errors import SamplingError
from posttrain.sampling.answer_file import AnswerFile
from posttrain.sampling.conversation import room_after
from posttrain.sampling.endpoint import EndpointSampler
from posttrain.sampling.prompt_rows import PromptRow
from posttrain.types import Sampler, SamplingParams

_FIRST_BLOCK = 16  # prompts; then as many as take about as long as one may lose
_SHORT_S, _LONG_S = 10.0, 40.0
_GIVE_UP = 32  # prompts in a row without an answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What one call of `answer_prompts` did."""

    completions: int
    tokens: int | None  # of the completions, where the sampler counts them
    seconds: float
    failures: tuple[str, ...]  # prompts without an answer, in words; the next call asks them again


def answer_prompts(
    sampler: Sampler,
    file: AnswerFile,
    params: SamplingParams,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Answered:
    """What it took to answer the prompts that wait in the file.

    Groups are written in blocks of some seconds' work, in the prompts' order: an interruption loses one block at
    most. A prompt that a server leaves unanswered is passed over and asked in the next call; when that happens to
    many in a row, SamplingError. `progress(done, total)` counts completions, those in the file included.
    """
    waiting, total = list(file.waiting), file.prompts * file.count
    for prompt in waiting:
        if (room := room_after(sampler, prompt.prompt)) is not None and room < params.max_tokens:
            raise SamplingError(
                f"{prompt.place}: with max_tokens={params.max_tokens} the prompt is {params.max_tokens - room} tokens"
                f" too long for the model. Shorten it{f', or use max_tokens={room} or less' if room > 0 else ''}."
            )
    failures: list[str] = []
    began = time.monotonic()
    completions = tokens = start = unanswered = 0
    size, counted = _FIRST_BLOCK, True
    while start < len(waiting):
        block = waiting[start : start + size]
        before = (file.prompts - len(waiting) + start) * file.count

        def fail(index: int, error: SamplingError, block: Sequence[PromptRow] = block) -> None:
            failures.append(f"{block[index].place}: {error}")

        def report(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        if isinstance(sampler, EndpointSampler):
            sampler.on_failure = fail
        clock = time.monotonic()
        groups = sampler.sample(
            [prompt.prompt for prompt in block],
            params,
            count=file.count,
            seed=seed,
            keys=[prompt.row for prompt in block],
            progress=report,
        )
        file.add(block, groups)
        for group in groups:
            unanswered = 0 if group else unanswered + 1
            completions += len(group)
            tokens += sum(len(completion.tokens or ()) for completion in group)
            counted = counted and all(completion.tokens is not None for completion in group)
        if unanswered >= _GIVE_UP:
            raise SamplingError(f"the last {unanswered} prompts stayed without an answer, such as {failures[-1]}")
        start += len(block)
        took = time.monotonic() - clock
        size = size * 2 if took < _SHORT_S else max(size // 2, 1) if took > _LONG_S else size
    return Answered(
        completions=completions,
        tokens=tokens if counted else None,
        seconds=time.monotonic() - began,
        failures=tuple(failures),
    )
