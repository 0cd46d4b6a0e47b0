"""`posttrain config schema`: a JSON Schema for editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from posttrain.cli.plain_words import read_words
from posttrain.errors import ConfigError

_HELP = """\
Usage: posttrain config schema [SUBJECT] [--output FILE]

Writes the JSON Schema (draft 2020-12) of a YAML file: its fields with type, limits, default and help; old names
marked deprecated, with the new one. SUBJECT is recipe (if left out), gate, task, or a method, for the file that
`posttrain METHOD --config FILE` reads:
  {subjects}

Example, for an editor with the YAML language server:
  posttrain config schema recipe --output recipe.schema.json
  # and in the first line of recipe.yaml:
  # yaml-language-server: $schema=recipe.schema.json"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of writing a schema."""
    given = read_words(arguments, ["output"], command="posttrain config schema")
    from posttrain.config.schema import SUBJECTS, schema

    if given is None:
        print(_HELP.format(subjects=", ".join(SUBJECTS)))
        return 0
    if len(given.words) > 1:
        raise ConfigError(f"{given.words[1]!r}: a second subject; write one schema at a time")
    text = json.dumps(schema(given.words[0].replace("-", "_") if given.words else "recipe"), indent=1) + "\n"
    if (output := given.flags.get("output")) is None:
        print(text, end="")
        return 0
    try:
        Path(output).write_text(text)
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from None
    print(f"schema: {output}")
    return 0
