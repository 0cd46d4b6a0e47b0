"""A recipe: named stages, each a method with its fields, that refer back to what earlier ones wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from posttrain.config.base import Config
from posttrain.config.evaluated import evaluated_on
from posttrain.config.methods import METHODS, MethodShape
from posttrain.config.reporting import without_tokens
from posttrain.config.yaml_file import Lines, parse_mapping, parse_value, read_text, set_dotted
from posttrain.errors import ConfigError, nearest

_TOP = ("name", "description", "output_dir", "seed", "after", "stages")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
SET_BY_RUNNER = {
    "output_dir": "a stage writes to its own directory under the recipe's output_dir",
    "resume_from_checkpoint": "a stage that was interrupted is resumed without being told",
}

Outputs = Mapping[str, Mapping[str, str]]  # stage -> output -> path


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a recipe, not yet run."""

    name: str
    method: str
    values: Mapping[str, Any]  # fields as written, references unresolved
    places: Mapping[str, str]  # where each was written, for errors

    @property
    def shape(self) -> MethodShape:
        """The method's fields and outputs."""
        return METHODS[self.method]

    def references(self) -> list[tuple[str, str]]:
        """The (stage, output) pairs that the fields refer to, in order."""
        found = [text.partition(".") for text in _references(self.values)]
        return [(stage, output) for stage, _, output in found]

    def resolve(self, outputs: Outputs, **defaults: Any) -> Config:
        """The checked fields, with references replaced; `defaults` stand where the recipe says nothing."""
        values = {k: v for k, v in defaults.items() if k in self.shape.fields.model_fields} | dict(self.values)
        return self.shape.fields.from_values(_resolve(values, outputs), self.places)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe: every field and every reference is known to be right."""

    name: str
    description: str
    output_dir: str
    seed: int | None
    stages: tuple[Stage, ...]
    source: str  # the file, for messages

    def stage(self, name: str) -> Stage:
        """The stage of this name. Raises ConfigError naming the nearest one."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise ConfigError(f"{self.source}: no stage {name!r}{nearest(name, names)} (stages: {', '.join(names)})")

    def defaults(self, stage: Stage) -> dict[str, Any]:
        """What the recipe says for a stage that does not say it: the seed, and what later stages evaluate on."""
        later = evaluated_on(other.values for other in self.stages[self.stages.index(stage) + 1 :])
        seed = {} if self.seed is None else {"seed": self.seed}
        return {**seed, **({"decontaminate": later} if later else {})}

    def to_yaml(self) -> str:
        """The recipe with its overrides, as a file that runs the same again; tokens for uploading are left out."""
        stages = [{"name": stage.name, "method": stage.method, **without_tokens(stage.values)} for stage in self.stages]
        said = {"name": self.name, "description": self.description, "seed": self.seed, "output_dir": self.output_dir}
        kept = {key: value for key, value in said.items() if value not in (None, "")}
        return yaml.safe_dump({**kept, "stages": stages}, sort_keys=False, allow_unicode=True)


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, changed by overrides like `sft.learning_rate=1e-4` or `seed=3`.

    Raises ConfigError for what cannot run: an unknown field or method, a reference to a later stage ...
    """
    return parse_recipe(read_text(path), os.fspath(path), overrides)


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The same from text; `source` stands in the errors."""
    values, lines = parse_mapping(text, source)
    for key in values:
        if key not in _TOP:
            raise ConfigError(
                f"{source} line {lines[(key,)]}: unknown key {key!r}{nearest(key, _TOP)} "
                f"(a recipe has {', '.join(_TOP)}; a stage's own fields stand in stages)"
            )
    stages = _stages(values, lines, source, _stages_before(values, lines, source))
    _override(values, stages, overrides, source)
    seed = values.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ConfigError(f"{source}: seed={seed!r} is not allowed; seed takes a whole number of at least 0")
    name = values.get("name") or os.path.splitext(os.path.basename(source))[0]
    recipe = Recipe(
        name=str(name),
        description=str(values.get("description") or ""),
        output_dir=os.path.expanduser(str(values.get("output_dir") or f"runs/{name}")),
        seed=seed,
        stages=tuple(stages),
        source=source,
    )
    for index, stage in enumerate(recipe.stages):
        _check_references(stage, recipe.stages[:index], recipe)
        stage.resolve({}, **recipe.defaults(stage))
    return recipe


def _stages_before(values: Mapping[str, Any], lines: Lines, source: str) -> list[Stage]:
    """The stages of the recipe that `after` names, a file beside this one: they come first."""
    named = values.get("after")
    if named is None:
        return []
    path = os.path.join(os.path.dirname(source), str(named))
    if not isinstance(named, str) or not os.path.isfile(path):
        raise ConfigError(
            f"{source} line {lines[('after',)]}: after={named!r} must be the file of another recipe, beside this one"
        )
    before, lines_before = parse_mapping(read_text(path), path)
    return _stages(before, lines_before, path, _stages_before(before, lines_before, path))


def _stages(values: Mapping[str, Any], lines: Lines, source: str, before: Sequence[Stage] = ()) -> list[Stage]:
    """The stages before, and those that are written here."""
    written = values.get("stages")
    if not isinstance(written, list) or not written:
        at = f" line {lines[('stages',)]}" if ("stages",) in lines else ""
        raise ConfigError(
            f"{source}{at}: a recipe needs stages, a list with one '- name: ...' for each stage, at least one"
        )
    stages: list[Stage] = list(before)
    for index, fields in enumerate(written):
        line = lines["stages", index]
        place = f"{source} line {line}"
        if not isinstance(fields, dict):
            raise ConfigError(f"{place}: a stage holds fields (name, method, ...), not {fields!r}")
        fields = dict(fields)
        method = fields.pop("method", None)
        if method not in METHODS:
            said = "no method" if method is None else f"unknown method {method!r}{nearest(str(method), METHODS)}"
            raise ConfigError(f"{place}: {said} (methods: {', '.join(METHODS)})")
        name = str(fields.pop("name", method))
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{place}: stage name {name!r}: use letters, digits, - and _ (it names a directory)")
        if name in [stage.name for stage in stages]:
            raise ConfigError(f"{place}: a second stage {name!r}; every stage needs a name of its own")
        places = {key: f"{source} line {lines['stages', index, key]}, stage {name!r}" for key in fields} | {
            key: f"{place}, stage {name!r}" for key in METHODS[method].fields.model_fields if key not in fields
        }
        stages.append(Stage(name=name, method=method, values=fields, places=places))
        for key, why in SET_BY_RUNNER.items():
            if key in fields:
                raise ConfigError(f"{places[key]}: leave {key} out: {why}")
    return stages


def _override(values: dict[str, Any], stages: list[Stage], overrides: Sequence[str], source: str) -> None:
    """Applies `stage.field=value` and `key=value` in place."""
    for override in overrides:
        name, equals, text = override.partition("=")
        first, dot, field = name.removeprefix("--").partition(".")
        names = [stage.name for stage in stages]
        place = f"override {override!r}"
        if not equals or not first:
            raise ConfigError(f"{place}: write stage.field=value, for example {names[0]}.learning_rate=1e-4")
        if not dot and first in _TOP and first != "stages":
            values[first] = parse_value(text)
        elif first in names and field:
            at = names.index(first)
            field = field.replace("-", "_")
            if field.split(".")[0] in (*SET_BY_RUNNER, "name", "method"):
                raise ConfigError(f"{place}: {field} is set in the recipe, not by an override")
            changed = dict(stages[at].values)
            set_dotted(changed, field, stages[at].shape.fields.parse_field(field, text), place)
            places = {**stages[at].places, field.split(".")[0]: f"{place}, stage {first!r}"}
            stages[at] = Stage(name=first, method=stages[at].method, values=changed, places=places)
        else:
            hint = nearest(first, [*names, *_TOP])
            raise ConfigError(
                f"{place}: {source} has no stage {first!r}{hint} "
                f"(write stage.field=value for {', '.join(names)}, or seed=, output_dir=, name=)"
            )


def _check_references(stage: Stage, earlier: Sequence[Stage], recipe: Recipe) -> None:
    for field, value in stage.values.items():
        for text in _references(value):
            place = f"{stage.places[field]}: {field} refers to ${{{text}}}"
            name, dot, output = text.partition(".")
            known = {other.name: other for other in earlier}
            if name in known:
                outputs = known[name].shape.outputs
                if output not in outputs:
                    there = ", ".join(f"${{{name}.{o}}}" for o in outputs)
                    raise ConfigError(
                        f"{place}, but a stage of method {known[name].method} has no output "
                        f"{output!r}{nearest(output, outputs)} (it has {there})"
                    )
                continue
            if name == stage.name:
                raise ConfigError(f"{place}, which is this stage itself; refer to an earlier one")
            if name in [other.name for other in recipe.stages]:
                raise ConfigError(f"{place}, but stage {name!r} comes later; move it before {stage.name!r}")
            before = ", ".join(known) or "none"
            raise ConfigError(
                f"{place}, but there is no stage {name!r}{nearest(name, known)} (stages before it: {before})"
            )


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (match.strip() for match in _REFERENCE.findall(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _resolve(value: Any, outputs: Outputs) -> Any:
    """The value with every reference replaced whose stage has outputs."""
    if isinstance(value, str):

        def path(match: re.Match[str]) -> str:
            stage, _, output = match[1].strip().partition(".")
            return outputs.get(stage, {}).get(output, match[0])

        return _REFERENCE.sub(path, value)
    if isinstance(value, Mapping):
        return {key: _resolve(item, outputs) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, outputs) for item in value]
    return value
