"""`posttrain data lint`: what would go wrong in training on some rows, as an exit status too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.cli.data import words
from posttrain.cli.flags import help_text, parse, read
from posttrain.config.curation.lint import LintCommand
from posttrain.errors import ConfigError

_EXAMPLE = """\
posttrain data lint pairs.jsonl
posttrain data lint chat.jsonl --model MODEL --max_length 1024 --against gsm8k.jsonl
posttrain data lint pairs.jsonl --format json --output lint.json || echo "not clean\""""

_ABOUT = (
    "Says what would go wrong in training on these rows, before an hour is spent: broken, empty and repeated rows, "
    "what a model's template and max_length make of them, and of preference data whether chosen and rejected can be "
    "told apart without reading the prompt, with what to do about it. The exit status is 0 for clean, 1 for warnings, "
    "2 for errors."
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of lint: 0 clean, 1 with warnings, 2 with errors."""
    given = words(arguments)
    if not given or parse(LintCommand, given).help:
        usage = "posttrain data lint INPUT... [--model MODEL | --tokenizer T] [--format text|json] [flags]"
        print(help_text(LintCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(LintCommand, given)
    output = None if command.output is None else Path(command.output)
    if output is not None and any(Path(name).resolve() == output.resolve() for name in command.inputs):
        raise ConfigError(f"--output {output} is one of the inputs; name another file.")

    from posttrain.curation.linting import lint_files
    from posttrain.curation.linting.options import options_of

    report = lint_files(command.inputs, **options_of(command))
    if output is None:
        print(report.json() if command.format == "json" else report.text())
        return report.status
    if command.format == "json":
        report.write(output)
    else:
        report.write_text(output)
    print(f"{report.sentence}. All of it: {output}")
    return report.status
