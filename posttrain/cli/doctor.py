"""`posttrain doctor`: what this machine is and has, and what a recipe will need on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError, nearest

_HELP = """\
Usage: posttrain doctor [--json]
       posttrain doctor --recipe RECIPE [--method M] [--only STAGE] [--seconds S] [--json]
                        [stage.field=value ...]

Without a recipe: machine, versions, what a training would use, how fast the machine is, and what is wrong
with it. Its output belongs into a bug report. The exit code is 1 when a package that is needed is missing.

With a recipe: how much memory, time and disk each training stage will take, before it starts. A few steps of
the stage's own trainer are tried on a few of its rows, in a directory that is thrown away; nothing is written
into the recipe's. The exit code is 1 when a stage will not fit.

  --recipe RECIPE    a YAML file of stages, a built-in recipe, or a file with the fields of one method
  --only STAGE       this stage alone
  --method M         the method of such a file: sft, dpo, grpo ...
  --seconds S        seconds of trying for each stage (30); loading comes on top; 0 tries nothing
  --json             the same as JSON

Example:
  posttrain doctor
  posttrain doctor --recipe recipe.yaml
  posttrain doctor --recipe sft.yaml --method sft --seconds 60 learning_rate=1e-4"""

_FLAGS = ("--recipe", "--method", "--only", "--seconds", "--json", "--help")
SECONDS = 30.0


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 when everything that is needed is there, and what was asked about fits."""
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    asked, overrides = _read(arguments)
    if asked["recipe"] is None:
        return _machine(as_json=asked["json"])
    return _recipe(asked, overrides)


def _machine(*, as_json: bool) -> int:
    from posttrain.cli import doctor_machine as found
    from posttrain.cli.doctor_packages import packages
    from posttrain.cli.doctor_problems import problems
    from posttrain.cli.doctor_text import page

    known = packages()
    torch = found.has_torch()
    gpus = found.gpus() if torch else []
    uses = found.uses() if torch else None
    about = found.machine()
    facts: dict[str, Any] = {
        "machine": {**about, "gpus": gpus},
        "versions": found.versions(known),
        "uses": uses,
        "measured": found.measured() if torch else None,
        "optional": {
            package.name: {"version": package.version, "for": package.use, "install": package.install}
            for package in known
            if package.use
        },
        "problems": problems(about, known, uses, gpus),
    }
    print(json.dumps(facts, indent=2) if as_json else page(facts))
    return int(any(package.version is None and not package.use for package in known))


def _recipe(asked: dict[str, Any], overrides: list[str]) -> int:
    import sys

    from posttrain.recipes.estimating.stages import estimate_recipe, open_recipe
    from posttrain.recipes.estimating.text import lines

    recipe = open_recipe(asked["recipe"], overrides, method=asked["method"])
    found = estimate_recipe(
        recipe,
        seconds=asked["seconds"],
        only=asked["only"],
        say=lambda text: print(f"note: {text}", file=sys.stderr, flush=True),
    )
    if asked["json"]:
        print(json.dumps({"recipe": recipe.name, "stages": [estimate.as_dict() for estimate in found]}, indent=2))
    else:
        print("\n".join(lines(found)))
    return int(any(estimate.fits is False for estimate in found))


def _read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    asked: dict[str, Any] = {"recipe": None, "method": None, "only": None, "seconds": SECONDS, "json": False}
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if name == "--json" and not equals:
            asked["json"] = True
        elif name in ("--recipe", "--method", "--only", "--seconds"):
            if not equals and not rest:
                raise ConfigError(f"{name} needs a value after it; see posttrain doctor --help")
            asked[name[2:]] = text if equals else rest.pop(0)
        elif not word.startswith("--") and equals:
            overrides.append(word)
        else:
            raise ConfigError(f"posttrain doctor takes no {word!r}{nearest(word, _FLAGS)}; see posttrain doctor --help")
    try:
        asked["seconds"] = float(asked["seconds"])
    except ValueError:
        raise ConfigError(f"--seconds takes a number of seconds, not {asked['seconds']!r}") from None
    if not 0 <= asked["seconds"] < float("inf"):
        raise ConfigError(f"--seconds={asked['seconds']:g}: give 0 or more")
    given = overrides[:1] + [f"--{name} {asked[name]}" for name in ("method", "only") if asked[name] is not None]
    if asked["recipe"] is None and given:
        raise ConfigError(f"{given[0]} belongs to a recipe; add --recipe RECIPE")
    return asked, overrides
