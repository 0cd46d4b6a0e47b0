"""`posttrain config explain`: what a field is, or what to write for a name of TRL."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.cli.plain_words import read_words

_HELP = """\
Usage: posttrain config explain [FIELD ...] [--method METHOD]

Says what a field is, what it takes, its default in each method, TRL's default where that is another, its old
names, what it is checked together with, and an example. For a name of TRL or transformers that is no field here:
what to write, or why it is refused. Without a field: all fields under their headings.

METHOD is a method of recipes, gate or task: {methods}

Examples:
  posttrain config explain beta --method dpo
  posttrain config explain max_seq_length"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of explaining fields."""
    given = read_words(arguments, ["method"], command="posttrain config explain")
    from posttrain.config.explain import SHAPES, explain, headings

    if given is None:
        print(_HELP.format(methods=", ".join(SHAPES)))
        return 0
    method = given.flags.get("method")
    if not given.words:
        print(headings(method))
        return 0
    print("\n\n".join(explain(name, method) for name in given.words))
    return 0
