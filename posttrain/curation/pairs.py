"""Preference pairs by correction: the model's own answer is rejected, its corrected form is chosen.

Both sides then differ in nothing but the correction, and both are close to what the model would say, which
is what keeps DPO from damaging the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.curation.correction import Corrector, corrector
from posttrain.errors import DataError

Messages = list[dict[str, Any]]
Prompt = str | Messages
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """What became of the prompts; the numbers after `prompts` add up to it."""

    prompts: int
    pairs: int
    unchanged: int  # the correction had nothing to do
    empty: int  # the model answered nothing, or the correction left nothing
    unfinished: int  # cut off at max_new_tokens: an end of turn after it would teach to stop in mid-sentence
    repeated: int  # a prompt asked before, answered the same

    def text(self) -> str:
        """One line for a person."""
        dropped = {
            "unchanged by the correction": self.unchanged,
            "empty": self.empty,
            "unfinished": self.unfinished,
            "repeated": self.repeated,
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
) -> tuple[list[dict[str, Messages]], PairCounts]:
    """Preference rows {"prompt", "chosen", "rejected"} as messages, and what was dropped why.

    `correct` is a function of a text or replacement rules. A prompt is the user's text or a list of messages,
    before which `system_message` is put if it has no system message of its own.
    Raises ValueError when the lists differ in length, DataError when a correction returns no text.
    """
    if isinstance(correct, Mapping):
        correct = corrector(correct)
    rows: list[dict[str, Messages]] = []
    dropped = dict.fromkeys(("unchanged", "empty", "unfinished", "repeated"), 0)
    seen: set[str] = set()
    finished = [True] * len(prompts) if finished is None else finished
    for number, (prompt, answer, whole) in enumerate(zip(prompts, answers, finished, strict=True), start=1):
        messages = _messages(prompt, system_message, number)
        chosen = correct(answer)
        if not isinstance(chosen, str):
            raise DataError(f"the correction of answer {number} returned {chosen!r}; it must return a text")
        key = json.dumps([messages, answer], sort_keys=True)
        if not answer.strip() or not chosen.strip():
            dropped["empty"] += 1
        elif not whole:
            dropped["unfinished"] += 1
        elif chosen == answer:
            dropped["unchanged"] += 1
        elif key in seen:
            dropped["repeated"] += 1
        else:
            seen.add(key)
            rows.append(
                {
                    "prompt": messages,
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": answer}],
                }
            )
    return rows, PairCounts(prompts=len(prompts), pairs=len(rows), **dropped)


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
) -> tuple[list[dict[str, Messages]], PairCounts]:
    """Preference rows and counts from the model's own answers, greedy unless `do_sample`.

    Raises DataError when no pair is left: DPO would have nothing to learn from.
    """
    from posttrain.sampling.generate import generate_completions

    if isinstance(correct, Mapping):
        correct = corrector(correct)  # a bad rule is found before the model has to answer
    asked = [_messages(prompt, system_message, number) for number, prompt in enumerate(prompts, start=1)]
    if not asked:
        raise DataError("no prompts to answer; pairs by correction need at least one")
    completions = generate_completions(
        model,
        tokenizer,
        asked,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        do_sample=do_sample,
        temperature=temperature,
        seed=seed,
        progress=progress,
    )
    answers = [completion.text.strip() for completion in completions]
    finished = [completion.finish_reason == "stop" for completion in completions]
    rows, counts = correction_pairs(asked, answers, correct, finished=finished)
    if not rows:
        raise DataError(
            f"no preference pair is left: {counts.text()}. The first answer was {answers[0][:200]!r}. "
            "Check that the rules name what the model says, or ask other prompts"
        )
    return rows, counts


def pairs_correct_file(
    *,
    model: str,
    prompts: str | Path,
    rules: Mapping[str, str],
    output: str | Path,
    system_message: str | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    seed: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> PairCounts:
    """The counts, after writing the pairs to `output` (JSONL) and the counts beside it; a recipe's stage.

    `prompts` is a file with a column "prompt" (text or messages). The output is whole or absent.
    """
    from posttrain.data.loading import load_rows
    from posttrain.models.loading import load_model_and_tokenizer

    rules_corrector = corrector(rules)
    asked = [_column(row, number, prompts) for number, row in enumerate(load_rows(str(prompts)), start=1)]
    loaded, tokenizer = load_model_and_tokenizer(model, device=None, trust_remote_code=trust_remote_code)
    rows, counts = pairs_correct(
        loaded,
        tokenizer,
        asked,
        rules_corrector,
        system_message=system_message,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        do_sample=do_sample,
        temperature=temperature,
        seed=seed,
        progress=progress,
    )
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(output.name + ".partial")
    aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    output.with_suffix(".counts.json").write_text(json.dumps(asdict(counts), indent=2) + "\n", encoding="utf-8")
    aside.replace(output)
    return counts


def _messages(prompt: Prompt, system_message: str | None, number: int) -> Messages:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not messages or messages[-1].get("role") == "assistant":
        raise DataError(f"prompt {number} must end with a message that asks for an answer, not {messages[-1:]}")
    if system_message is not None and messages[0].get("role") != "system":
        return [{"role": "system", "content": system_message}, *messages]
    return messages


def _column(row: Mapping[str, Any], number: int, source: str | Path) -> Prompt:
    prompt = row.get("prompt")
    if isinstance(prompt, str | list) and prompt:
        return prompt
    raise DataError(
        f"{source}, row {number}: expected a column 'prompt' with a text or a list of messages, "
        f"found {prompt!r}; the row's columns are {sorted(row)}"
    )
