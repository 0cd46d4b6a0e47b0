"""What a field is, in each method that has it; or what to write for a name of TRL that is no field here."""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from posttrain.config.base import Config, allowed, choices, members_of
from posttrain.config.elsewhere import NOT_HERE, REFUSED_ARGUMENTS
from posttrain.config.evaluation import TaskConfig
from posttrain.config.gate import GateConfig
from posttrain.config.methods import METHODS
from posttrain.config.related import checked_together
from posttrain.errors import ConfigError, nearest

SHAPES: Mapping[str, type[Config]] = {
    **{name: shape.fields for name, shape in METHODS.items()},
    "gate": GateConfig,
    "task": TaskConfig,
}

# Where TRL 1.16 has another default: its default, and why it is another one here.
DEFAULTS_OF_TRL: Mapping[str, tuple[Any, str]] = {
    "optim": ("adamw_torch_fused", "the same mathematics; fused is quicker on a GPU"),
    "gradient_checkpointing": (True, "here activations are recomputed only when memory runs out"),
    "bf16": (True, "here bfloat16 is used where a measured product is 1.2 times as fast"),
    "assistant_only_loss": (False, "here the assistant's turns of a conversation are what is trained"),
    "use_cache": (False, "here it is only written into the model's configuration, which is left as it is"),
    "auto_find_batch_size": (False, "here passes are cut smaller where memory runs out, and the result is the same"),
    "per_device_eval_batch_size": (8, "here an evaluation pass holds what max_tokens_per_pass allows"),
    "enable_jit_checkpoint": (False, "here a run that is ended by SIGTERM can always go on"),
    "restore_callback_states_from_checkpoint": (False, "here a resumed run goes on as if it had never stopped"),
    "ddp_timeout": (1800, "here processes wait for one that measures or saves"),
    "debug": ("", "the same, written as a list"),
    "do_train": (False, "a training command trains"),
    "precompute_ref_log_probs": (False, "here the reference is computed once, before training, and kept"),
    "lora_target_modules": (None, "there peft's choice, often query and value alone; here every linear layer"),
}


def explain(name: str, method: str | None = None) -> str:
    """The explanation of a name, of one method or of all that know it. Raises ConfigError with the nearest name."""
    name = name.removeprefix("--").replace("-", "_").partition("=")[0].partition(".")[0]
    shapes = _shapes(method)
    having = {m: shape for m, shape in shapes.items() if name in shape.model_fields}
    parts = [_field(name, having)] if having else []
    parts += [_elsewhere(name, {m: shape for m, shape in shapes.items() if m not in having}, bool(having))]
    text = "\n\n".join(part for part in parts if part) or _no_field(name)
    if not text:
        known = {known for shape in shapes.values() for known in _names(shape)}
        elsewhere = [] if method is None else [m for m, shape in SHAPES.items() if name in shape.model_fields]
        hint = f"; {', '.join(elsewhere)} have it" if elsewhere else nearest(name, known)
        raise ConfigError(f"no field {name!r}{f' in {method}' if method else ''}{hint}")
    return text


def _no_field(name: str) -> str:
    """What is said of a name that TRL has elsewhere: as an argument of a trainer, or to import."""
    if name == "tokenizer":
        return "tokenizer: an old argument of trainers; it is called processing_class now."
    if name in REFUSED_ARGUMENTS:
        return f"{name}: an argument of trainers elsewhere, refused here: {REFUSED_ARGUMENTS[name]}."
    return f"{name}: of TRL, and not here: {NOT_HERE[name]}." if name in NOT_HERE else ""


def headings(method: str | None = None) -> str:
    """The fields under their headings, as the help of a command has them."""
    groups: dict[str, dict[str, None]] = {}
    for shape in _shapes(method).values():
        for name, info in shape.model_fields.items():
            groups.setdefault(_heading(info), {})[name] = None
    width = max(len(name) for names in groups.values() for name in names)
    ordered = sorted(groups, key=lambda group: group == "Other")
    return "\n\n".join(
        f"{group}:\n"
        + textwrap.fill(", ".join(groups[group]), max(width, 98), initial_indent="  ", subsequent_indent="  ")
        for group in ordered
    )


def _shapes(method: str | None) -> Mapping[str, type[Config]]:
    if method is None:
        return SHAPES
    method = method.replace("-", "_")
    if method not in SHAPES:
        raise ConfigError(f"no method {method!r}{nearest(method, SHAPES)} (there are {', '.join(SHAPES)})")
    return {method: SHAPES[method]}


def _names(shape: type[Config]) -> Iterator[str]:
    for table in (shape.model_fields, shape.renamed, shape.fixed, shape.no_effect, shape.unsupported):
        yield from table


def _field(name: str, having: Mapping[str, type[Config]]) -> str:
    lines = [f"{name}: a field of {', '.join(having)}"]
    for said, methods in _shared(_about(name, shape) for shape in having.values()).items():
        chosen = [method for method, each in zip(having, methods) if each]
        whose = "" if len(chosen) == len(having) else f"{', '.join(chosen)}: "
        first, *more = said
        lines += _indented(f"{whose}{first}") + [f"  {line}" for line in _indented(*more)]
    lines += _indented(*_trl(name, having), *_names_for(name, having), *_values_elsewhere(name, having))
    return "\n".join([*lines, "", *_example(name, having)])


def _about(name: str, shape: type[Config]) -> tuple[str, ...]:
    info = shape.model_fields[name]
    partners = sorted(checked_together(shape).get(name, ()))
    heading = "" if (group := _heading(info)) == "Other" else f" Heading: {group}."
    return (
        f"{info.description}",
        f"Takes {allowed(info)}. {_default(info)}{heading}",
        f"Checked together with {', '.join(partners)}." if partners else "",
    )


def _shared(said: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], list[bool]]:
    """Each text once, and which of those that speak say it."""
    texts = list(said)
    return {text: [text == other for other in texts] for text in dict.fromkeys(texts)}


def _elsewhere(name: str, shapes: Mapping[str, type[Config]], known: bool) -> str:
    """What the methods say for which it is no field."""
    same: dict[str, list[str]] = {}
    for method, shape in shapes.items():
        if said := _said(name, shape):
            same.setdefault(said, []).append(method)
    lines = [] if known or not same else [f"{name}: no field"]
    for said, methods in same.items():
        lines += _indented(f"In {', '.join(methods)}: {said}")
    return "\n".join(lines)


def _said(name: str, shape: type[Config]) -> str:
    if (rename := shape.renamed.get(name)) is not None:
        sets = ", ".join(_sets(shape, name))
        return f"it {rename.note}." if rename.note else f"another name of {sets}; write {sets}."
    if (fixed := shape.fixed.get(name)) is not None:
        only = " or ".join(_yaml(value) for value in fixed.values)
        return f"it can only be {only}: {fixed.reason}."
    if (why := shape.no_effect.get(name)) is not None:
        return f"it is taken and changes nothing: {why}." if why else "it is taken, and is the case here anyway."
    if (why := shape.unsupported.get(name)) is not None:
        return f"it is refused: {why}."
    return ""


def _sets(shape: type[Config], name: str) -> list[str]:
    """The fields that an old name sets."""
    for value in (True, "1"):
        try:
            return list(shape.renamed[name].apply(value))
        except (TypeError, ValueError, KeyError, AttributeError):
            continue
    return []


def _trl(name: str, having: Mapping[str, type[Config]]) -> Iterator[str]:
    if name in DEFAULTS_OF_TRL and any(method in having for method in ("sft", "dpo", "reward", "grpo")):
        default, why = DEFAULTS_OF_TRL[name]
        yield f"TRL's default is {_yaml(default)}: {why}."


def _names_for(name: str, having: Mapping[str, type[Config]]) -> Iterator[str]:
    old: dict[str, None] = {}
    other: dict[str, None] = {}
    for shape in having.values():
        for known, rename in shape.renamed.items():
            if name in _sets(shape, known):
                (old if rename.note else other)[known] = None
    if old:
        yield f"Old names that set it: {', '.join(old)}."
    if other:
        yield f"Other names: {', '.join(other)}."


def _values_elsewhere(name: str, having: Mapping[str, type[Config]]) -> Iterator[str]:
    reasons: dict[str, dict[str, None]] = {}
    for shape in having.values():
        for value, why in shape.unsupported_values.get(name, {}).items():
            if value not in choices(shape.model_fields[name].annotation):
                reasons.setdefault(why, {})[value] = None
    for why, values in reasons.items():
        yield f"Not {', '.join(values)}: {why}."


def _example(name: str, having: Mapping[str, type[Config]]) -> list[str]:
    method, shape = next(iter(having.items()))
    text = _yaml(example_value(shape, name))
    lines = [f"  in YAML: {name}: {text}"]
    return [*lines, f"  as an override of a recipe: {method}.{name}={text}"] if method in METHODS else lines


def example_value(shape: type[Config], name: str) -> Any:
    """A value of the field that is not its default."""
    info = shape.model_fields[name]
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    kinds = members_of(info)
    for value in choices(info.annotation):
        if value != default and [value] != default:
            return [value] if isinstance(default, list) else value
    if info.annotation is not None and choices(info.annotation):
        return default
    if bool in kinds:
        return not default
    limits = {
        key: getattr(item, key) for item in info.metadata for key in ("ge", "gt", "le", "lt") if hasattr(item, key)
    }
    for kind in (int, float):
        if kind in kinds:
            tried = [2 * default] if isinstance(default, int | float) and default > 0 else []
            below, above = limits.get("lt", limits.get("le")), limits.get("ge", limits.get("gt", 0))
            tried += [kind(8), kind(1), kind(2), 0.5 * ((above or 0) + (below if below is not None else 1))]
            fits = [value for value in tried if _within(value, limits)]
            return fits[0] if fits else tried[0]
    if list in kinds:
        held = next(
            (typing.get_args(part)[0] for part in _parts(info.annotation) if typing.get_origin(part) is list), str
        )
        inside = members_of(held)
        return [1.0] if float in inside else [1] if int in inside else ["..."]
    return {"...": "..."} if dict in kinds else "..."


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of a union, or the annotation itself."""
    alternatives = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, UnionType) else ()
    return list(alternatives) or [annotation]


def _within(value: float, limits: Mapping[str, float]) -> bool:
    tests = {"ge": value.__ge__, "gt": value.__gt__, "le": value.__le__, "lt": value.__lt__}
    return all(tests[key](type(value)(limit)) is True for key, limit in limits.items())


def _heading(info: FieldInfo) -> str:
    extra = info.json_schema_extra
    return str(extra.get("group") or "Other") if isinstance(extra, Mapping) else "Other"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "Required."
    default = info.get_default(call_default_factory=True)
    return f"Default {'none' if default is None else _yaml(default)}."


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _indented(*paragraphs: str) -> list[str]:
    return [textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    ") for text in paragraphs if text]
