"""`posttrain config import`: a recipe from a file of another tool."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from posttrain.cli.plain_words import read_words
from posttrain.errors import ConfigError

_HELP = """\
Usage: posttrain config import FILE [--from llamafactory|axolotl] [--output recipe.yaml]

Turns a training file of LLaMA-Factory or Axolotl into a recipe as far as it goes, and says of every key that does
not carry over why, and which defaults had to be written out because they are others here. Data sets of
LLaMA-Factory are found by its dataset_info.json. Without --output the recipe is printed, what is said of it goes to
the standard error.

Example:
  posttrain config import llama3_lora_sft.yaml --output recipe.yaml
  posttrain run recipe.yaml"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of importing a file."""
    given = read_words(arguments, ["from", "output"], command="posttrain config import")
    if given is None or not given.words:
        print(_HELP)
        return 0
    if len(given.words) > 1:
        raise ConfigError(f"{given.words[1]!r}: a second file; import one at a time")
    from posttrain.config.imports import import_file
    from posttrain.config.imports.writing import recipe_text, report

    found = import_file(given.words[0], given.flags.get("from"))
    text, output = recipe_text(found), given.flags.get("output")
    if output is None:
        print(text, end="")
        print(report(found), file=sys.stderr)
        return 0
    if Path(output).exists():
        raise ConfigError(f"--output {output}: there is a file already; name another, or move it away")
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from None
    print(f"{report(found)}\n\nrecipe: {output}")
    return 0
