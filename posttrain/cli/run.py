"""`posttrain run`: a recipe, stage by stage."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain.errors import ConfigError, nearest

_HELP = """\
Usage: posttrain run RECIPE [--only STAGE] [--estimate] [stage.field=value ...]

Runs the stages of a recipe in order, each on what earlier ones wrote. A stage that finished is not run again;
one that was interrupted goes on; one whose fields or inputs changed runs anew, its old files moved aside.

  RECIPE             a YAML file, or the name of a built-in recipe: {built_in}
  --only STAGE       run this stage alone, on what the earlier ones left
  --estimate         run nothing, say what memory, time and disk it will take: posttrain doctor --recipe
  stage.field=value  change a field of a stage; seed=1 and output_dir=DIR change the recipe's own

Example:
  posttrain run recipe.yaml
  posttrain run demo output_dir=runs/try sft.learning_rate=5e-4
  posttrain run recipe.yaml --only dpo dpo.beta=0.2

A recipe:
  output_dir: runs/mine
  stages:
    - name: sft
      method: sft
      model: MODEL
      train_dataset: chat.jsonl
    - name: dpo
      method: dpo
      model: ${{sft.model}}
      train_dataset: pairs.jsonl

{methods}"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of running a recipe."""
    from posttrain.recipes import built_in_recipes

    built_in = built_in_recipes()
    if not arguments or any(word in ("-h", "--help") for word in arguments):
        from posttrain.config.methods import METHODS

        print(_HELP.format(built_in=", ".join(built_in), methods=textwrap.fill(f"Methods: {', '.join(METHODS)}.", 100)))
        return 0
    source, only, overrides = _read([word for word in arguments if word != "--estimate"])
    if "--estimate" in arguments:
        from posttrain.cli.doctor import run as doctor

        return doctor(["--recipe", source, *(("--only", only) if only else ()), *overrides])
    path = built_in[source] if source in built_in and not Path(source).is_file() else Path(source)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"no recipe {source!r}: neither a file nor built in{nearest(source, built_in)} "
            f"(built in: {', '.join(built_in)})"
        )

    from posttrain.config.recipe import load_recipe

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        recipe = load_recipe(path, overrides)
    for text in dict.fromkeys(str(note.message) for note in notes):
        print(f"note: {text}", file=sys.stderr)

    from posttrain.recipes.pipeline import run_recipe

    records = run_recipe(recipe, only=only, progress=counter())
    for name, record in records.items():
        for output, where in record.outputs.items():
            print(f"${{{name}.{output}}}: {where}")
    return max((int(record.summary.get("gate_status", 0)) for record in records.values()), default=0)


def counter() -> Callable[[str, int, int], None] | None:
    """A line on the terminal that counts; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r  {what}: {done}/{total}\x1b[K", end=end, file=sys.stderr, flush=True)

    return show


def _read(arguments: Sequence[str]) -> tuple[str, str | None, list[str]]:
    source: str | None = None
    only: str | None = None
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--only" or word.startswith("--only="):
            only = word.partition("=")[2] or (rest.pop(0) if rest else "")
            if not only:
                raise ConfigError("--only needs the name of a stage after it")
        elif word.startswith("--") and "=" not in word:
            name = word[2:].replace("-", "_")
            if not rest or ("." not in name and name not in ("seed", "output_dir", "name")):
                raise ConfigError(
                    f"unknown flag {word!r}{nearest(word, ['--only', '--help'])} (see posttrain run --help)"
                )
            overrides.append(f"{name}={rest.pop(0)}")
        elif "=" in word:
            overrides.append(word.removeprefix("--"))
        elif source is None:
            source = word
        else:
            raise ConfigError(f"{word!r}: a second recipe; run one at a time, and write overrides as stage.field=value")
    if source is None:
        raise ConfigError("which recipe? Name a YAML file or a built-in recipe; see posttrain run --help")
    return source, only, overrides
