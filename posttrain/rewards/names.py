"""Rewards by name: the built-in ones, and functions in files and modules."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.errors import PosttrainError, RewardError, nearest
from posttrain.rewards.files import load_function

# name -> (module, factory, one line of help)
REWARDS: dict[str, tuple[str, str, str]] = {
    "boxed_answer": ("posttrain.rewards.answers", "boxed_answer", "the right answer in the last \\boxed{...}"),
    "marked_answer": ("posttrain.rewards.answers", "marked_answer", "the right answer after a marker, such as ####"),
    "final_answer": ("posttrain.rewards.answers", "final_answer", 'it in a box, after ####, or after "the answer is"'),
    "math_answer": ("posttrain.rewards.mathematics", "math_answer", "the same, where equal mathematics is right too"),
    "reasoning_format": ("posttrain.rewards.formats", "reasoning_format", "<think>...</think> and then an answer"),
    "regex_match": ("posttrain.rewards.formats", "regex_match", "a regular expression is found"),
    "json_valid": ("posttrain.rewards.formats", "json_valid", "JSON, and fits a schema"),
    "length": ("posttrain.rewards.formats", "length", "characters, words or tokens, near a target or within limits"),
    "soft_overlong_punishment": (
        "posttrain.rewards.formats", "soft_overlong_punishment", "below 0 near the limit of tokens, as in DAPO",
    ),
    "repetition_penalty": ("posttrain.rewards.formats", "repetition_penalty", "below 0 for n-grams that come again"),
    "instruction_following": (
        "posttrain.rewards.instructions", "instruction_following", "IFEval's instructions, strictly or loosely",
    ),
    "reward_model": ("posttrain.rewards.reward_model", "reward_model", "the score of a reward model"),
    "judge": ("posttrain.rewards.judge", "endpoint_judge", "a score by a rubric, from a model behind a server"),
    "pairwise_judge": (
        "posttrain.rewards.judge", "endpoint_pairwise_judge", "better than the row's answer, says a model on a server",
    ),
}  # fmt: skip


def make_reward(spec: Any) -> Callable[..., Any]:
    """The reward that the spec stands for.

    A name of `REWARDS`; `path/to/file.py:function` or `package.module:function`; a reward model's directory, or its
    name on the hub (`organisation/model`); a mapping of `name` (any of these) and options; a reward model in memory; or
    a function, which is given back. Options of a built-in reward are its factory's; those of a function are passed to
    it at every call.

    Raises RewardError for an unknown name or option, with the nearest.
    """
    if isinstance(spec, Mapping):
        options = {str(key): value for key, value in spec.items()}
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise RewardError(f"reward {dict(spec)!r:.100} has no name; write {{'name': 'length', ...}}")
        return _named(name, options)
    if isinstance(spec, str):
        return _named(spec, {})
    if hasattr(spec, "config") and hasattr(spec, "parameters"):  # a model of transformers, which could be called, too
        return _named("reward_model", {"model": spec})
    if callable(spec):
        function: Callable[..., Any] = spec
        return function
    raise RewardError(
        f"{type(spec).__name__} {spec!r:.60} is no reward; give a function, a name, file.py:function, or a mapping of "
        "name and options"
    )


def about(name: str) -> str:
    """What a built-in reward does, and its options."""
    factory = _factory(name)
    text = inspect.getdoc(factory) or REWARDS[name][2]
    parameters = inspect.signature(factory).parameters.values()
    options = [
        f"  {p.name}: {p.annotation}" + ("" if p.default is p.empty else f" = {p.default!r:.60}") for p in parameters
    ]
    return "\n".join([f"{name}: {text}", "", "Options:" if options else "It has no options.", *options])


def _is_model(name: str) -> bool:
    """Whether the name is a directory's, or looks like a model's on the hub."""
    return os.path.isdir(os.path.expanduser(name)) or bool(re.fullmatch(r"[\w.-]+/(?!.*\.py$)[\w.-]+", name))


def _named(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    if name not in REWARDS and _is_model(name):
        name, options = "reward_model", {"model": name, **options}
    if name not in REWARDS:
        if ":" not in name and not name.endswith(".py"):
            parts = [known for known in REWARDS if name.lower() in known]
            hint = nearest(name, REWARDS) or (f"; did you mean {parts[0]!r}?" if name and parts else "")
            raise RewardError(
                f"no reward {name!r}{hint} (rewards: {', '.join(REWARDS)}; a function of your own is "
                "named path/to/file.py:function, a reward model by its directory)"
            )
        function = load_function(name)
        return functools.partial(function, **options) if options else function
    known = inspect.signature(_factory(name)).parameters
    for option in options:
        if option not in known:
            there = f"; {name} has {', '.join(known)}" if known else f"; {name} has no options"
            raise RewardError(f"reward {name!r} has no option {option!r}{nearest(option, known) or there}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise RewardError(f"reward {name!r} needs the option {option!r} (options: {', '.join(known)})")
    try:
        reward: Callable[..., Any] = _factory(name)(**options)
    except PosttrainError:
        raise
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {name!r} cannot be made with {options!r:.200}: {error}") from error
    return reward


def _factory(name: str) -> Callable[..., Any]:
    module, factory, _ = REWARDS[name]
    made: Callable[..., Any] = getattr(importlib.import_module(module), factory)
    return made
