"""`posttrain config show`: every value of a file or recipe, and where it came from."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.cli.plain_words import read_words
from posttrain.errors import ConfigError

_HELP = """\
Usage: posttrain config show FILE [--method METHOD] [name=value ...]

Checks a recipe (a file, or the name of a built-in one) or the YAML file of a command, and prints what it comes to:
every value with the line, the override or the old name that set it, or that it is a default. Nothing is run.

Examples:
  posttrain config show recipe.yaml sft.learning_rate=1e-4
  posttrain config show sft.yaml --method sft max_steps=20"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of showing what a file comes to."""
    given = read_words(arguments, ["method"], command="posttrain config show")
    if given is None or not given.words:
        print(_HELP)
        return 0
    file, *overrides = given.words
    for word in overrides:
        if "=" not in word:
            raise ConfigError(f"{word!r}: a second file; show one at a time, and write overrides as name=value")

    from posttrain.config.resolved import DEFAULT, resolve_file
    from posttrain.recipes import built_in_recipes

    built_in = built_in_recipes()
    path = built_in[file] if file in built_in and not Path(file).is_file() else Path(file)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        stages = resolve_file(path, overrides, given.flags.get("method"))
    for text in dict.fromkeys(str(note.message) for note in notes):
        print(f"note: {text}", file=sys.stderr)
    for stage in stages:
        print(f"{stage.title}:")
        names = sorted(stage.values, key=lambda name: stage.places[name] == DEFAULT)
        lines = [f"  {name}: {_shown(stage.values[name])}" for name in names]
        width = min(max(map(len, lines)), 60)
        for name, line in zip(names, lines):
            print(f"{line:<{width}}  # {stage.places[name]}")
        print()
    return 0


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()
