"""What a key of another tool becomes, and what became of every key of a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.config.base import Config
from posttrain.config.methods import METHODS
from posttrain.config.recipe import SET_BY_RUNNER
from posttrain.errors import ConfigError

File = Mapping[str, Any]
_OF_EVALUATION = (
    "eval_strategy", "eval_steps", "eval_on_start", "eval_delay", "per_device_eval_batch_size", "bf16_full_eval",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
)  # fmt: skip
_UNSET: tuple[Any, ...] = (None, False, "", [], {}, 0)


class NotCarriedError(Exception):
    """Raised by a key's function for a value that has no counterpart; its text is the reason."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """What becomes of a key: the fields that it sets, or why it sets none."""

    sets: Callable[[Any, File], dict[str, Any]] | None = None
    lost: str = ""  # why it cannot be carried over; a loss unless the value is one of `unless`
    idle: str = ""  # why nothing has to be set
    unless: tuple[Any, ...] = _UNSET


def to(name: str, change: Callable[[Any], Any] = lambda value: value) -> Key:
    """The key of a field, its value changed where the tools write it differently."""
    return Key(sets=lambda value, _: {name: change(value)})


def sets(make: Callable[[Any, File], dict[str, Any]]) -> Key:
    """The key of several fields, or of one that depends on the rest of the file."""
    return Key(sets=make)


def lost(why: str, unless: Sequence[Any] = _UNSET) -> Key:
    """The key of what is not here. The values in `unless` ask for nothing and are passed over."""
    return Key(lost=why, unless=tuple(unless))


def idle(why: str) -> Key:
    """The key of what is the case here anyway, or has nothing to do with the result."""
    return Key(idle=why)


# Chat templates that the tools and chat_template_path have under one name, or that the tools write otherwise.
_TEMPLATES = {
    **{name: name for name in ("chatml", "llama3", "gemma", "phi3", "zephyr", "mistral", "vicuna", "alpaca")},
    "phi_3": "phi3",
    "phi": "phi3",
}


def chat_template(name: Any, _: File) -> dict[str, Any]:
    """The chat template of this name, where there is one."""
    if name in ("tokenizer_default", "jinja", "default", "empty"):
        return {}
    if name not in _TEMPLATES:
        raise NotCarriedError(
            "rows are rendered by the tokenizer's own chat template; chat_template_path names another: a file, or one "
            f"of {', '.join(sorted(set(_TEMPLATES.values())))}"
        )
    return {"chat_template_path": _TEMPLATES[name]}


def read_elsewhere() -> Key:
    """The key that the importer reads itself."""
    return Key(sets=lambda *_: {})


@dataclass(frozen=True, kw_only=True)
class Note:
    """One key of the file, or one field of the recipe, and a sentence about it."""

    name: str
    value: Any
    text: str


@dataclass(kw_only=True)
class Imported:
    """A stage made of a file of another tool, and what was not carried over."""

    tool: str
    source: str
    method: str
    given: File
    output_dir: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # field -> the key that set it; "" for a default of the tool
    lost: list[Note] = field(default_factory=list)
    idle: list[Note] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)  # what the method complains about and no key has set
    carried: list[str] = field(default_factory=list)  # keys that set a field
    asks_nothing: list[str] = field(default_factory=list)  # keys with a value that changes nothing

    def written_out(self) -> list[str]:
        """The fields that the file left at the tool's default, which is not the default here."""
        return [name for name in self.values if self.origins.get(name) == ""]


def translate(given: File, table: Mapping[str, Key], *, passed: Collection[str], found: Imported) -> None:
    """Sorts every key of the file into fields, losses and what needs nothing.

    `passed` are keys that mean the same here under the same name. In the table `name*` stands for all keys that begin
    so and are not known otherwise.
    """
    for name, value in given.items():
        key = table.get(name)
        if value is None:
            continue
        if key is None and name in passed:
            key = to(name)
        if key is None:
            key = next(
                (entry for start, entry in table.items() if start[-1] == "*" and name.startswith(start[:-1])), None
            )
        if key is None:
            found.lost.append(Note(name=name, value=value, text=f"no key of {found.tool} that is known here"))
        elif key.sets is not None:
            try:
                made = key.sets(value, given)
            except NotCarriedError as error:
                found.lost.append(Note(name=name, value=value, text=str(error)))
                continue
            (found.carried if made else found.asks_nothing).append(name)
            for new, changed in made.items():
                _set(found, new, changed, name)
        elif key.idle:
            found.idle.append(Note(name=name, value=value, text=key.idle))
        elif not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in key.unless):
            found.lost.append(Note(name=name, value=value, text=key.lost))


def _set(found: Imported, new: str, value: Any, key: str) -> None:
    before, earlier = found.values.get(new), found.origins.get(new)
    if isinstance(before, dict) and isinstance(value, dict):
        value = {**before, **value}
    elif earlier is not None and before != value and earlier != key:
        text = f"{key}, which stands later, sets the same field {new}"
        found.lost.append(Note(name=earlier, value=found.given.get(earlier), text=text))
    found.values[new], found.origins[new] = value, key


def settle(found: Imported, defaults: Mapping[str, Any]) -> None:
    """Leaves what the method takes, and writes out the tool's defaults that are not the defaults here.

    What is refused goes to the losses with the method's own reason, so that the stage that is left can be loaded.
    """
    shape = METHODS[found.method].fields
    if "eval_dataset" not in found.values:
        for name in _OF_EVALUATION:
            if found.values.get(name) not in (None, False, "no", 0):
                _lose(found, name, "there is nothing to evaluate on; name an eval_dataset")
    for name in list(found.values):
        _place(shape, found, name)
    left = dict(defaults)
    while True:
        _write_out(shape, found, left)
        if not (refused := _refused(shape, found)):
            return
        for name, text in refused.items():
            if found.origins[name] == "":
                del left[name]
            _lose(found, name, text)


def _place(shape: type[Config], found: Imported, name: str) -> None:
    """Keeps the field, or moves it where the method's tables say."""
    value, key = found.values[name], found.origins[name]
    if name in SET_BY_RUNNER:
        _lose(found, name, SET_BY_RUNNER[name])
    elif name in shape.model_fields:
        if (why := shape.unsupported_values.get(name, {}).get(str(value))) is not None:
            _lose(found, name, why)
    elif (rename := shape.renamed.get(name)) is not None:
        del found.values[name]
        made = rename.apply(value)
        found.values |= made
        found.origins |= dict.fromkeys(made, key)
        if not made:
            found.idle.append(Note(name=key, value=value, text=rename.note or "it is the case here anyway"))
    elif (fixed := shape.fixed.get(name)) is not None:
        if value in fixed.values:
            del found.values[name]
        else:
            _lose(found, name, fixed.reason)
    elif (why := shape.no_effect.get(name)) is not None:
        del found.values[name]
        found.idle.append(Note(name=key, value=value, text=why or "it is the case here anyway"))
    else:
        why = shape.unsupported.get(name, f"{found.method} has no field {name}")
        _lose(found, name, why)


def _write_out(shape: type[Config], found: Imported, defaults: Mapping[str, Any]) -> None:
    for name, value in defaults.items():
        info = shape.model_fields.get(name)
        if info is None or name in found.values:
            continue
        if info.is_required() or info.get_default(call_default_factory=True) != value:
            found.values[name], found.origins[name] = value, ""


def _refused(shape: type[Config], found: Imported) -> dict[str, str]:
    """The fields of the file that the method complains about, each with the complaint; others go to `mend`."""
    places = {name: name for name in shape.model_fields}
    given = {name: _PRESENT[name] for name in missing(shape, found.values)} | found.values
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape.from_values(given, places)
    except ConfigError as error:
        complaints = [line.partition(": ") for line in str(error).splitlines()]
        named = {name: text for name, _, text in complaints if name in found.values}
        found.mend = [] if named else [text for _, _, text in complaints]
        return named
    return {}


_PRESENT = {"model": "model", "train_dataset": "data.jsonl", "reward_funcs": ["reward"]}  # what may be named later


def missing(shape: type[Config], values: Mapping[str, Any]) -> list[str]:
    """The fields without which the method cannot run and which no key has set."""
    return [name for name, info in shape.model_fields.items() if info.is_required() and name not in values]


def _lose(found: Imported, name: str, why: str) -> None:
    value, key = found.values.pop(name), found.origins.pop(name)
    note = Note(name=key, value=found.given.get(key, value), text=why)
    if key and note not in found.lost:
        found.lost.append(note)
