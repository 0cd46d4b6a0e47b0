"""Optimisers and learning-rate schedules by the names that transformers gives them."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler
from transformers.optimization import Adafactor

from posttrain.config.training import TrainingConfig
from posttrain.engine.galore import GaLoreAdamW, projection_of, target_weights
from posttrain.errors import ConfigError

_ADAM, _BETAS, _NONE = ("betas", "eps"), ("betas",), ()


@dataclass(frozen=True, kw_only=True)
class _Here:
    """An optimiser's class, which of Adam's fields it takes, and what it is always given."""

    kind: Callable[..., Optimizer]
    takes: tuple[str, ...] = _NONE
    always: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Elsewhere:
    """The same for one of another package, which is imported when it is asked for."""

    package: str  # as pip has it
    module: str
    name: str
    takes: tuple[str, ...] = _ADAM
    always: Mapping[str, Any] = field(default_factory=dict)

    def load(self, optim: str) -> _Here:
        try:
            kind = getattr(importlib.import_module(self.module), self.name)
        except ImportError as error:
            raise ConfigError(
                f"optim={optim!r} is of the package {self.package}, which cannot be imported here ({error}): "
                f"`pip install {self.package}`, or use adamw_torch"
            ) from error
        return _Here(kind=kind, takes=self.takes, always=self.always)


def _bits(name: str, bits: int, *, paged: bool = False, takes: tuple[str, ...] = _ADAM) -> _Elsewhere:
    always = {"optim_bits": bits} | ({"is_paged": True} if paged else {})
    return _Elsewhere(package="bitsandbytes", module="bitsandbytes.optim", name=name, takes=takes, always=always)


# both names are one mathematics, and fused is the faster
_ADAMW = _Here(kind=torch.optim.AdamW, takes=_ADAM, always={"fused": True})

OPTIMIZERS: Mapping[str, _Here | _Elsewhere] = {
    "adamw_torch": _ADAMW,
    "adamw_torch_fused": _ADAMW,
    "sgd": _Here(kind=torch.optim.SGD),
    "adagrad": _Here(kind=torch.optim.Adagrad),
    "rmsprop": _Here(kind=torch.optim.RMSprop),
    "adafactor": _Here(kind=Adafactor, always={"scale_parameter": False, "relative_step": False}),
    "galore_adamw": _Here(kind=GaLoreAdamW, takes=_ADAM),
    "adamw_8bit": _bits("AdamW", 8),
    "adamw_bnb_8bit": _bits("AdamW", 8),
    "paged_adamw_32bit": _bits("AdamW", 32, paged=True),
    "paged_adamw_8bit": _bits("AdamW", 8, paged=True),
    "ademamix": _bits("AdEMAMix", 32, takes=("eps",)),
    "ademamix_8bit": _bits("AdEMAMix", 8, takes=("eps",)),
    "paged_ademamix_32bit": _bits("AdEMAMix", 32, paged=True, takes=("eps",)),
    "paged_ademamix_8bit": _bits("AdEMAMix", 8, paged=True, takes=("eps",)),
    "lion_32bit": _bits("Lion", 32, takes=_BETAS),
    "lion_8bit": _bits("Lion", 8, takes=_BETAS),
    "paged_lion_32bit": _bits("Lion", 32, paged=True, takes=_BETAS),
    "paged_lion_8bit": _bits("Lion", 8, paged=True, takes=_BETAS),
    "rmsprop_bnb": _bits("RMSprop", 32, takes=_NONE),
    "rmsprop_bnb_8bit": _bits("RMSprop", 8, takes=_NONE),
    "rmsprop_bnb_32bit": _bits("RMSprop", 32, takes=_NONE),
    "adamw_torch_4bit": _Elsewhere(package="torchao", module="torchao.optim", name="AdamW4bit"),
    "adamw_torch_8bit": _Elsewhere(package="torchao", module="torchao.optim", name="AdamW8bit"),
    "grokadamw": _Elsewhere(package="grokadamw", module="grokadamw", name="GrokAdamW"),
    "stable_adamw": _Elsewhere(package="torch-optimi", module="optimi", name="StableAdamW"),
}


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainingConfig, *, model: nn.Module | None = None
) -> Optimizer:
    """The optimiser named in `config.optim`. Weight decay applies to matrices, not to biases and norms.

    `model` is where galore_adamw finds the layers that `optim_target_modules` names. Raises ConfigError for an
    optimiser whose package is not there, and for `optim_args` that it does not know.
    """
    entry = OPTIMIZERS[config.optim]
    made = entry.load(config.optim) if isinstance(entry, _Elsewhere) else entry
    trained = [p for p in parameters if p.requires_grad]
    projected: set[int] = set()
    groups: list[dict[str, Any]] = []
    given = parse_optim_args(config.optim_args)
    if config.optim_target_modules is not None:
        weights = target_weights(model, config.optim_target_modules, trained)
        projected = {id(weight) for weight in weights}
        groups.append({"params": weights, "weight_decay": config.weight_decay, **projection_of(given)})
    rest = [p for p in trained if id(p) not in projected]
    groups += [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fields: dict[str, Any] = {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    options = {name: fields[name] for name in made.takes} | dict(made.always) | given
    known = set(inspect.signature(made.kind).parameters) - {"params", "lr", "weight_decay"}
    if unknown := sorted(given.keys() - known):
        raise ConfigError(
            f"optim_args: {config.optim} takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    try:
        return made.kind(groups, lr=config.learning_rate, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"optim={config.optim!r} cannot be made with optim_args={config.optim_args!r}: {error}"
        ) from None


def parse_optim_args(text: str | None) -> dict[str, Any]:
    """The arguments in `name=value,other=(0.9, 0.99)`, values read as YAML and a pair in brackets as a tuple.

    Raises ConfigError for what is no list of assignments.
    """
    found: dict[str, Any] = {}
    for part in _split(text or ""):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"optim_args={text!r}: {part!r} is not of the form name=value, with commas between")
        value = value.strip()
        if value.startswith("(") and value.endswith(")"):
            value = f"[{value[1:-1]}]"
        read = yaml.safe_load(value)
        if isinstance(read, str):
            with suppress(ValueError):  # YAML takes 1e-8 for text
                read = float(read)
        found[name.strip()] = tuple(read) if isinstance(read, list) else read
    return found


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def make_scheduler(optimizer: Optimizer, config: TrainingConfig, max_steps: int) -> LRScheduler:
    """The schedule named in `config.lr_scheduler_type`; warm-up below 1 is a share of all steps.

    One that follows the evaluation is stepped with its metric, and has the mode that `greater_is_better` says. Raises
    ConfigError for `lr_scheduler_kwargs` that the schedule lacks or does not know.
    """
    warmup = config.warmup_steps
    options: dict[str, Any] = dict(config.lr_scheduler_kwargs or {})
    if config.follows_evaluation:
        options.setdefault("mode", "max" if config.greater_is_better else "min")
    if config.lr_scheduler_type == "greedy":
        _check_bounds(config.learning_rate, options)
    try:
        return get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=math.ceil(warmup * max_steps) if warmup < 1 else int(warmup),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"lr_scheduler_type={config.lr_scheduler_type!r} cannot be made with lr_scheduler_kwargs={options}: {error}"
        ) from error


def _check_bounds(learning_rate: float, options: Mapping[str, Any]) -> None:
    """Raises ConfigError where the greedy schedule would jump to a bound; its own are 0.001 and 1."""
    bounds = {"min_lr": options.get("min_lr", 1e-3), "max_lr": options.get("max_lr", 1.0)}
    low, high = (min(v) if isinstance(v, list | tuple) else v for v in bounds.values())
    if not low <= learning_rate <= high:
        raise ConfigError(
            f"lr_scheduler_type='greedy' keeps the learning rate between {low:g} and {high:g}, and learning_rate="
            f"{learning_rate:g} lies outside: give lr_scheduler_kwargs with min_lr and max_lr, such as "
            f"{{'min_lr': {learning_rate / 10:g}, 'max_lr': {learning_rate * 10:g}}}"
        )
