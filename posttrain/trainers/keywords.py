"""Arguments of the trainers of TRL and transformers that are none here: taken as they are meant, or refused."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config.base import Config
from posttrain.config.elsewhere import REFUSED_ARGUMENTS
from posttrain.errors import ConfigError, nearest


def understand_keywords(trainer: type) -> None:
    """Lets the constructor of a trainer take `tokenizer=` and transformers' TrainingArguments, each with a warning.

    For every other argument that it does not have, a ConfigError says where it is written.
    """
    made = trainer.__dict__.get("__init__")
    if made is None:
        return
    signature = inspect.signature(made)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        return  # a subclass that hands its arguments on

    @functools.wraps(made)
    def init(self: Any, *given: Any, **keywords: Any) -> None:
        unknown = {name: keywords.pop(name) for name in list(keywords) if name not in signature.parameters}
        kind = _configuration(made, signature)
        keywords |= _understood(trainer.__name__, unknown, keywords, list(signature.parameters)[1:], kind)
        bound = signature.bind_partial(self, *given, **keywords)
        if kind is not None and _is_foreign(args := bound.arguments.get("args"), kind):
            bound.arguments["args"] = taken_over(args, kind)
        made(*bound.args, **bound.kwargs)

    trainer.__init__ = init  # type: ignore[misc]


def _understood(
    trainer: str, unknown: Mapping[str, Any], given: Mapping[str, Any], known: Sequence[str], kind: type[Config] | None
) -> dict[str, Any]:
    """The arguments under the names they have here."""
    found: dict[str, Any] = {}
    for name, value in unknown.items():
        if name == "tokenizer" and "processing_class" in known:
            if given.get("processing_class") is not None:
                raise ConfigError(f"{trainer} got tokenizer and processing_class, which are the same; keep one")
            warnings.warn(
                f"{trainer}: tokenizer is an old name: it is called processing_class now", FutureWarning, stacklevel=3
            )
            found["processing_class"] = value
        elif kind is not None and (written := _in_configuration(name, value, kind)):
            raise ConfigError(f"{trainer} has no argument {name}: write it in the configuration, args={written}")
        elif name in REFUSED_ARGUMENTS:
            if value is not None:
                raise ConfigError(f"{trainer} has no argument {name}: {REFUSED_ARGUMENTS[name]}")
        else:
            hint = nearest(name, [*known, *REFUSED_ARGUMENTS])
            raise ConfigError(f"{trainer} has no argument {name}{hint} (it has {', '.join(known)})")
    return found


def _in_configuration(name: str, value: Any, kind: type[Config]) -> str:
    """How the argument is written in the configuration; empty where it is not there."""
    if name in kind.model_fields or name in kind.fixed or name in kind.no_effect:
        return f"{kind.__name__}({name}={_short(value)})"
    if (rename := kind.renamed.get(name)) is not None:
        fields = ", ".join(f"{new}={_short(changed)}" for new, changed in rename.apply(value).items())
        return f"{kind.__name__}({fields})" if fields else f"{kind.__name__}(), where {name} {rename.note}"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else "..."


def _configuration(made: Any, signature: inspect.Signature) -> type[Config] | None:
    """The configuration that the constructor's `args` are."""
    annotation = getattr(signature.parameters.get("args"), "annotation", None)
    kind = made.__globals__.get(str(annotation).partition(" ")[0]) if isinstance(annotation, str) else annotation
    return kind if isinstance(kind, type) and issubclass(kind, Config) else None


def _is_foreign(args: Any, kind: type[Config]) -> bool:
    """Whether these are transformers' TrainingArguments, or a configuration of TRL."""
    if args is None or isinstance(args, Config | type) or not dataclasses.is_dataclass(args):
        return False
    return any(parent.__name__ == "TrainingArguments" for parent in inspect.getmro(type(args)))


def taken_over(args: Any, kind: type[Config]) -> Any:
    """The configuration with the settings of a TrainingArguments that are not its defaults, and its learning rate.

    Raises ConfigError for what cannot be set here, as the configuration itself would.
    """
    theirs: Any = type(args)
    warnings.warn(
        f"args is a {theirs.__name__} of {theirs.__module__.partition('.')[0]}: its settings were taken over into a "
        f"{kind.__name__}, whose defaults are another's where you set nothing; write posttrain.{kind.__name__}",
        FutureWarning,
        stacklevel=3,
    )
    machine = {name: getattr(args, name) for name in ("use_cpu", "bf16", "fp16")}  # that the defaults may not be for
    fresh = theirs(output_dir=args.output_dir, **machine)
    fields = [field for field in dataclasses.fields(args) if field.init]
    kept = {"output_dir": args.output_dir, "learning_rate": args.learning_rate}
    kept |= {f.name: getattr(args, f.name) for f in fields if getattr(args, f.name) != getattr(fresh, f.name)}
    usual = {f.name: f.default is not False for f in fields}  # TRL's bf16 is on where it is None
    kept |= {name: value for name, value in machine.items() if value != usual[name]}
    return kind(**kept)
