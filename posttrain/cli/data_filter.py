"""`posttrain data filter`: rows that are worth training on, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.cli.data import words
from posttrain.cli.flags import help_text, parse, read
from posttrain.config.curation.filter import FilterCommand

_EXAMPLE = """\
posttrain data filter chat.jsonl --output good.jsonl --refusals --near_duplicates --decontaminate test.jsonl
posttrain data filter chat.jsonl --output short.jsonl --max_answer_words 200 --languages en zh
posttrain data filter chat.jsonl --output best.jsonl --ifd_model MODEL --max_ifd 1 --select 1000"""

_ABOUT = (
    "Leaves out rows that are not worth training on. Without flags these are rows that cannot be read, empty answers, "
    "damaged text and equal rows. Beside the output lie FILE.rejects.jsonl, with filter and reason for each row, and "
    "FILE.card.json with the funnel. The same command goes on where it was interrupted."
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of filtering."""
    given = words(arguments)
    if not given or parse(FilterCommand, given).help:
        usage = "posttrain data filter INPUT... --output FILE.jsonl [flags]"
        print(help_text(FilterCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(FilterCommand, given)

    from posttrain.curation.filters.filtering import run_filter

    output = run_filter(command, arguments)
    print(output.card.text())
    again = ", as before" if output.finished else ""
    print(f"{output.path}: {output.kept:,} rows of {output.consumed:,}{again}; the others: {output.path}.rejects.jsonl")
    return 0
