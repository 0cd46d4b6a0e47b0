"""`posttrain data convert`: rows of any format that is read here as rows of another."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from posttrain.cli.data import words
from posttrain.cli.flags import help_text, parse, read
from posttrain.config.curation.convert import ConvertCommand

_EXAMPLE = """\
posttrain data convert demo.json --output chat.jsonl
posttrain data convert trees.jsonl --to preference --output pairs.jsonl
cat rows.jsonl | posttrain data convert - --to alpaca --output rows.json"""

_ABOUT = (
    "Tells the format of each input from its first rows, says how they are understood, and writes them in another. A"
    " row that cannot be read or that the format cannot hold goes to FILE.rejects.jsonl with the reason."
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of converting: 2 where nothing could be converted."""
    given = words(arguments)
    if not given or parse(ConvertCommand, given).help:
        usage = "posttrain data convert INPUT... --output FILE [--to FORMAT] [flags]"
        print(help_text(ConvertCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(ConvertCommand, given)

    from posttrain.curation.conversion.files import convert_files

    card = convert_files(command, command.output, arguments=arguments)
    rejected, written = card.counts["rows rejected"], card.output["rows"]
    print(card.text())
    for step in card.steps:
        for example in step.examples:
            print(f"  {example[:160]}")
    print(f"{command.output}: {written:,} rows" + (f"; rejected: {command.output}.rejects.jsonl" if rejected else ""))
    if not written:
        print("posttrain: no row could be converted", file=sys.stderr)
    return 0 if written else 2
