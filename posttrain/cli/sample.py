"""`posttrain sample`: a file of prompts to a file of answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cli.flags import help_text, parse, read
from posttrain.cli.positional import positional
from posttrain.config.sampling import SampleCommand
from posttrain.errors import ConfigError

if TYPE_CHECKING:
    from posttrain.sampling.answer_file import AnswerFile
    from posttrain.sampling.prompt_rows import PromptRow

_EXAMPLE = """\
posttrain sample MODEL prompts.jsonl --output answers.jsonl --count 4 --max_tokens 512
posttrain sample gpt-4o-mini prompts.jsonl --endpoint https://api.openai.com/v1 --temperature 0"""

_ABOUT = (
    "Answers a file of prompts with a model on this machine or behind an OpenAI-compatible server. Rows have a prompt "
    "(text or messages), a conversation or a question; the file of answers has a line for each answer, with the row's "
    "other columns. The same command goes on where it was interrupted."
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of sampling: 2 where prompts stayed without an answer."""
    words = positional(arguments, ("model", "prompts"))
    if not words or parse(SampleCommand, words).help:
        usage = "posttrain sample MODEL PROMPTS [--output FILE.jsonl] [flags]"
        print(help_text(SampleCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(SampleCommand, words)

    from posttrain.data.loading import load_rows
    from posttrain.sampling.answer_file import AnswerFile
    from posttrain.sampling.prompt_rows import prompt_rows

    output = Path(command.output)
    rows = load_rows(command.prompts, name="prompts")
    if output.resolve() == Path(command.prompts).resolve():
        raise ConfigError(f"--output {output} is the file of prompts; name another.")
    prompts = prompt_rows(rows, system_message=command.system_message)
    file = AnswerFile(output, prompts, count=command.count, settings=_settings(command, prompts))
    before = file.answered
    if before and file.waiting:
        print(f"{output}: {before} of {len(prompts)} prompts are answered; going on", file=sys.stderr)
    try:
        code = _answer(command, file) if file.waiting else 0
    except KeyboardInterrupt:
        print(
            f"\n{output}: stopped with {file.answered} of {len(prompts)} prompts answered. The same command goes on.",
            file=sys.stderr,
        )
        return 130
    total = file.answered * command.count
    print(f"{output}: {total:,} completions of {file.answered:,} prompts{'' if file.waiting else ', as before'}")
    if code == 0:
        print(f"next: posttrain grade REWARD --file {output}")
        print(f"  or: posttrain sft --model MODEL --train_dataset {output} --output_dir out")
    return code


def _answer(command: SampleCommand, file: AnswerFile) -> int:
    from tqdm import tqdm

    from posttrain.sampling.answering import answer_prompts
    from posttrain.sampling.endpoint import EndpointSampler
    from posttrain.sampling.opening import open_sampler
    from posttrain.types import SamplingParams

    sampler = open_sampler(command.model, command.endpoint, command, note=_note)
    done, total = file.answered * command.count, file.prompts * command.count
    with tqdm(total=total, initial=done, unit="answer", disable=None, smoothing=0.1) as bar:

        def show(now: int, _: int) -> None:
            bar.update(now - bar.n)

        outcome = answer_prompts(sampler, file, SamplingParams(**command.sampling()), seed=command.seed, progress=show)
    tokens = outcome.tokens
    if isinstance(sampler, EndpointSampler):
        usage = sampler.usage
        tokens = usage.completion_tokens
        print(f"{usage.requests:,} requests, {usage.retries:,} of them repeated; {usage.prompt_tokens:,} prompt tokens")
    written = "" if tokens is None else f", {tokens:,} tokens ({tokens / max(outcome.seconds, 1e-9):,.0f}/s)"
    print(f"{outcome.completions:,} completions in {outcome.seconds:,.1f} s{written}")
    if not outcome.failures:
        return 0
    print(f"{len(outcome.failures)} prompts stayed without an answer; the same command asks again:", file=sys.stderr)
    for failure in outcome.failures[:5]:
        print(f"  {failure}", file=sys.stderr)
    if len(outcome.failures) > 5:
        print(f"  and {len(outcome.failures) - 5} more", file=sys.stderr)
    return 2


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _settings(command: SampleCommand, prompts: Sequence[PromptRow]) -> dict[str, Any]:
    """What decides the answers, and so may not change when they are gone on with."""
    import hashlib
    import json

    from posttrain.recipes.stage_key import path_identity

    written = json.dumps([[p.prompt, dict(p.columns)] for p in prompts], default=str)
    here = command.endpoint is None
    return {
        "model": command.model,
        "weights": path_identity(command.model) if here else None,
        "endpoint": command.endpoint,
        "prompts": hashlib.sha256(written.encode()).hexdigest(),
        "count": command.count,
        "seed": command.seed,
        **command.sampling(),
        **({"dtype": command.dtype} if here else {"extra_body": command.extra_body}),
    }
