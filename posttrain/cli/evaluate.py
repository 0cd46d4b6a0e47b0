"""`posttrain evaluate`: a model on some tasks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.cli.flags import help_text, parse, read
from posttrain.cli.positional import positional
from posttrain.config.evaluation import EvaluateCommand
from posttrain.errors import ConfigError

if TYPE_CHECKING:
    from posttrain.evaluation import AnyTask, Result

_EXAMPLE = """\
posttrain evaluate MODEL --tasks gsm8k.jsonl --output scores
posttrain evaluate MODEL --tasks tasks.yaml battery lm_eval:arc_easy --limit 200 --output scores
posttrain evaluate gpt-4o-mini --endpoint https://api.openai.com/v1 --tasks gsm8k.jsonl

tasks.yaml, five lines for a task of your own:
  name: sums
  file: sums.jsonl
  prompt: "What is {question}?"
  grader: final_answer
  max_new_tokens: 64"""

_ABOUT = (
    "Measures a model. A task is a file whose columns are known (GSM8K, MATH, IFEval, choices, texts), a tasks.yaml, a "
    "function in file.py:function that returns a Task, a task of lm-evaluation-harness as lm_eval:NAME, or the name of "
    "one of this package. The directory gets TASK.jsonl with a line for each sample, and scores.json. The same command "
    "goes on where it was interrupted."
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of evaluating."""
    words = positional(arguments, ("model",))
    if not words or parse(EvaluateCommand, words).help:
        usage = "posttrain evaluate MODEL --tasks TASK [TASK ...] [--output DIR] [flags]"
        print(help_text(EvaluateCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(EvaluateCommand, words)
    output = Path(command.output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; name a directory.")

    from posttrain.recipes.scoring import named_tasks

    tasks = named_tasks(command.tasks, limit=command.limit, include_path=command.include_path)
    if command.endpoint is not None:
        _require_answers_only(tasks)

    from posttrain.cli.measuring import measure, open_subject

    try:
        results = measure(command.model, tasks, output, command, sampler=open_subject(command.model, command))
    except KeyboardInterrupt:
        print(f"\n{output}: stopped. The same command goes on.", file=sys.stderr)
        return 130
    print("\n".join(table(tasks, results)))
    print(f"\nscores: {output / 'scores.json'}; each sample: {output}/TASK.jsonl")
    print(f"next: posttrain compare {output} OTHER, where OTHER is another model's directory or a model with --tasks")
    return 0


def _require_answers_only(tasks: Sequence[AnyTask]) -> None:
    from posttrain.evaluation import Task

    for task in tasks:
        if not isinstance(task, Task):
            raise ConfigError(
                f"task {task.name!r} needs log-likelihoods from a model on this machine; one behind an endpoint only"
                " answers. Leave it out, or name a model's directory."
            )


def table(tasks: Sequence[AnyTask], results: Sequence[Result]) -> list[str]:
    """A line for each grader: its mean with the interval."""
    from posttrain.cli.measuring import shown

    rows = [
        (result.name if number == 0 else "", grader, shown(interval, grader))
        for result in results
        for number, (grader, interval) in enumerate(result.scores.items())
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {grader:<{widths[1]}}  {value}" for name, grader, value in rows]
    for result in results:
        lines.append(f"{result.name}: {result.n:,} questions" + (f" x {result.samples}" if result.samples > 1 else ""))
        cut = sum(record.finish_reason == "length" for record in result.records)
        if cut > len(result.records) / 20:
            lines[-1] += f"; {100 * cut / len(result.records):.0f}% of the answers were cut off at max_new_tokens"
        for grader, count in result.unjudged.items():
            lines[-1] += f"; {count} answers could not be judged by {grader} and are left out" if count else ""
    return lines
