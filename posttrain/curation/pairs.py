"""Preference pairs by correction: the model's own answer is rejected, its corrected form is chosen.

Both sides then differ in nothing but the correction, and both are close to what the model would say, which
is what keeps DPO from damaging the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from posttrain.curation.candidates import Asking
from posttrain.curation.corrected_pairs import correct_pairs
from posttrain.curation.correction import Corrector
from posttrain.curation.editing import Editor, FunctionEditor, RuleEditor
from posttrain.curation.rows import PROVENANCE, Row
from posttrain.curation.sinks import Collected, prompts_of
from posttrain.errors import DataError
from posttrain.types import Completion, Sampler, SamplingParams

Messages = list[dict[str, Any]]
Prompt = str | Messages
Progress = Callable[[int, int], None]

# What a step of correction drops, under the name of its count.
_STEPS = {
    "changed": "unchanged", "not empty": "empty", "finished": "unfinished", "repeated": "repeated",
    "stable": "unstable",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """What became of the prompts; the numbers after `prompts` add up to it."""

    prompts: int
    pairs: int
    unchanged: int  # the correction had nothing to do
    empty: int  # the model answered nothing, or the correction left nothing
    unfinished: int  # cut off at max_new_tokens: an end of turn after it would teach to stop in mid-sentence
    repeated: int  # a prompt asked before, answered the same
    unstable: int = 0  # correcting twice would not be correcting once

    def text(self) -> str:
        """One line for a person."""
        dropped = {
            "unchanged by the correction": self.unchanged,
            "empty": self.empty,
            "unfinished": self.unfinished,
            "repeated": self.repeated,
            "changed again by correcting twice": self.unstable,
        }
        said = ", ".join(f"{count} {name}" for name, count in dropped.items() if count)
        return f"{self.pairs} pairs from {self.prompts} prompts" + (f" (dropped: {said})" if said else "")


def correction_pairs(
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    correct: Corrector | Mapping[str, str],
    *,
    system_message: str | None = None,
    finished: Sequence[bool] | None = None,
) -> tuple[list[Row], PairCounts]:
    """Preference rows {"prompt", "chosen", "rejected"} as messages from answers that are there, and what was dropped.

    `correct` is a function of a text or replacement rules. A prompt is the user's text or a list of messages,
    before which `system_message` is put if it has no system message of its own.
    Raises ValueError when the lists differ in length, DataError when a correction returns no text.
    """
    finished = [True] * len(prompts) if finished is None else finished
    said = [
        Completion(text=answer, finish_reason="stop" if whole else "length")
        for _, answer, whole in zip(prompts, answers, finished, strict=True)
    ]
    return _pairs(_asked(prompts, system_message), _Said(said), correct, params=SamplingParams())


def pairs_correct(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    correct: Corrector | Mapping[str, str],
    *,
    system_message: str | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    seed: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Row], PairCounts]:
    """Preference rows and counts from the model's own answers, greedy unless `do_sample`.

    Without a `seed` draws follow torch's global random state. Raises DataError when no pair is left: DPO would have
    nothing to learn from.
    """
    import torch

    from posttrain.sampling.local import LocalSampler

    editor = _editor(correct)  # a bad rule is found before the model has to answer
    asked = _asked(prompts, system_message)
    if not asked:
        raise DataError("no prompts to answer; pairs by correction need at least one")
    if seed is None:
        seed = int(torch.randint(2**62, ())) if do_sample else 0
    params = SamplingParams(max_tokens=max_new_tokens, temperature=temperature if do_sample else 0.0)
    sampler = LocalSampler(model, tokenizer, max_rows=batch_size)
    rows, counts = _pairs(asked, sampler, editor, params=params, seed=seed, progress=progress)
    if not rows:
        raise DataError(
            f"no preference pair is left: {counts.text()}. Check that the rules name what the model says, or ask other "
            "prompts"
        )
    return rows, counts


@dataclass(frozen=True)
class _Said:
    """A sampler whose answers are known."""

    answers: Sequence[Completion]
    gives_tokens: bool = False

    def sample(
        self, prompts: Sequence[Any], params: SamplingParams, *, count: int = 1, seed: int = 0,
        keys: Sequence[int] | None = None, progress: Progress | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """The answers to the prompts of these numbers."""
        return [[self.answers[key]] for key in keys or range(len(prompts))]


def _pairs(
    asked: Sequence[Messages], sampler: Sampler, correct: Editor | Corrector | Mapping[str, str], *,
    params: SamplingParams, seed: int = 0, progress: Progress | None = None,
) -> tuple[list[Row], PairCounts]:  # fmt: skip
    how = Asking.of(sampler, params=params, seed=seed)
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, len(asked))

    how.progress = report
    sink = Collected("pairs correct")
    correct_pairs(prompts_of([{"prompt": messages} for messages in asked]), how, _editor(correct), sink)
    for reject in sink.rejects:
        if reject["step"] not in _STEPS:
            raise DataError(f"prompt {reject['line']}: {reject['reason']}")
    rows = sink.rows
    if isinstance(sampler, _Said):  # nothing is known of how they were made
        known = ("source", "line", "correction")
        rows = [{**row, PROVENANCE: {name: row[PROVENANCE][name] for name in known}} for row in rows]
    dropped = {name: sink.rejected[step] for step, name in _STEPS.items()}
    return rows, PairCounts(prompts=len(asked), pairs=len(rows), **dropped)


def _editor(correct: Editor | Corrector | Mapping[str, str]) -> Editor:
    if isinstance(correct, RuleEditor | FunctionEditor):
        return correct
    if isinstance(correct, Mapping):
        return RuleEditor(correct)
    return FunctionEditor(cast(Corrector, correct), getattr(correct, "__name__", "function"), bounded=False)


def _asked(prompts: Sequence[Prompt], system_message: str | None) -> list[Messages]:
    return [_messages(prompt, system_message, number) for number, prompt in enumerate(prompts, start=1)]


def _messages(prompt: Prompt, system_message: str | None, number: int) -> Messages:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not messages or messages[-1].get("role") == "assistant":
        raise DataError(f"prompt {number} must end with a message that asks for an answer, not {messages[-1:]}")
    if system_message is not None and messages[0].get("role") != "system":
        return [{"role": "system", "content": system_message}, *messages]
    return messages
