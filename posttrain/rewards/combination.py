"""Several rewards as one: each called as it asks to be, its values checked, and their weighted sum."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import torch

from posttrain.data.loading import PROVENANCE
from posttrain.errors import RewardError, SamplingError, nearest
from posttrain.rewards.event_loop import EventLoop
from posttrain.rewards.names import make_reward
from posttrain.types import Reward, Unjudged

_ALWAYS = ("prompts", "completions", "completion_ids")
# Of the row: what rewards get as prompts and completions, and what nothing learns from
_NOT_COLUMNS = ("prompt", "completion", PROVENANCE)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the rewards say of N completions."""

    by_name: dict[str, list[float | None]]  # [N] each; None: not applicable, or unjudged
    total: list[float | None]  # [N] weighted sum of what applies; None: nothing that counts does, or it is unjudged
    reasons: dict[str, dict[int, str]]  # for each name, the completions it could not judge, and why

    @property
    def unjudged(self) -> dict[str, int]:
        """How many completions each reward could not judge."""
        return {name: len(rows) for name, rows in self.reasons.items()}


class RewardSet:
    """Rewards that are computed together. Each is a function, or what `make_reward` makes one of.

    A completion's total is the sum of weight x value over the rewards that apply to it. It is None where none of weight
    other than 0 applies, and where one of these is Unjudged: the completion then tells nothing. A weight of 0 shows a
    reward without using it.
    """

    def __init__(
        self,
        functions: Reward | str | Mapping[str, Any] | Sequence[Reward | str | Mapping[str, Any]],
        *,
        weights: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Raises RewardError for what is no reward, and for weights and names that do not fit."""
        several = functions if isinstance(functions, Sequence) and not isinstance(functions, str) else [functions]
        if not several:
            raise RewardError("no reward: give at least one function or name")
        self.functions: list[Reward] = [_function(given) for given in several]
        self.names = _names(self.functions, names)
        self.weights = _weights(self.names, weights)
        self._accepts = [_parameters(name, function) for name, function in zip(self.names, self.functions)]
        self._loop = EventLoop()

    @property
    def learned(self) -> list[str]:
        """The names of those that a model gives, which can be talked round."""
        return [name for name, function in zip(self.names, self.functions) if getattr(function, "learned", False)]

    def __len__(self) -> int:
        return len(self.functions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and threads that the rewards hold."""
        self._loop.close()
        for function in self.functions:
            if callable(close := getattr(function, "close", None)):
                close()

    def check(self, columns: Iterable[str], *, extras: Iterable[str] = ()) -> None:
        """Raises RewardError for a reward that could not work on rows with these columns, before there are any.

        A reward's own `check()`, such as a judge's, is called too.
        """
        given = [column for column in columns if column not in _NOT_COLUMNS]
        if clash := sorted(set(given) & {*_ALWAYS[:2], *extras}):
            raise RewardError(f"the rows have a column {clash[0]!r}, under which rewards get something else; rename it")
        for name, function, (_, required) in zip(self.names, self.functions, self._accepts):
            for parameter in required:
                if parameter not in (known := {*_ALWAYS, *given, *extras}):
                    raise RewardError(
                        f"reward {name!r} takes {parameter!r}, which is no column of the rows"
                        f"{nearest(parameter, known)} (columns: {', '.join(given) or 'none'})"
                    )
            if str(getattr(function, "__module__", "")).startswith("posttrain.rewards."):
                # those of this package say about no completion what they would say about any
                self._call(name, function, {key: [] for key in (*_ALWAYS, *given)}, [])
            if callable(check := getattr(function, "check", None)):
                check()

    def score(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None,
        columns: Mapping[str, Sequence[Any]],
        places: Sequence[str] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> Scored:
        """The rewards of N completions. Ordinary functions are called in turn, then coroutine functions together.

        `columns` have a value for each completion; `extras` go to the functions as they are (`trainer_state`).
        `places` says where each completion comes from ("row 17 of train.jsonl, completion 2"). `completion_ids` is None
        where only texts are known.

        Raises RewardError that names the reward and the place where a function raises or returns what is no reward.
        """
        count = len(completions)
        per_row: dict[str, Sequence[Any]] = {"prompts": prompts, "completions": completions}
        if completion_ids is not None:
            per_row["completion_ids"] = completion_ids
        per_row |= {name: values for name, values in columns.items() if name not in (*_NOT_COLUMNS, *_ALWAYS)}
        for name, values in per_row.items():
            if len(values) != count:
                raise RewardError(f"{name!r} has {len(values)} values for {count} completions")
        given = {name: list(values) for name, values in per_row.items()}
        where = places or [f"completion {number} of {count}" for number in range(1, count + 1)]
        returned: dict[str, Any] = {}
        calls: list[tuple[str, Reward, dict[str, Any]]] = []
        for name, function, (accepts, required) in zip(self.names, self.functions, self._accepts):
            if completion_ids is None and "completion_ids" in required:
                raise RewardError(f"reward {name!r} takes completion_ids, and only the texts are known here")
            arguments = {**given, **(extras or {})}
            if accepts is not None:
                arguments = {key: value for key, value in arguments.items() if key in accepts}
            if count == 0:
                returned[name] = []
            elif _is_async(function):
                calls.append((name, function, arguments))
            else:
                returned[name] = self._call(name, function, arguments, where, per_row)
        results = self._loop.run([function(**arguments) for _, function, arguments in calls]) if calls else []
        for (name, function, arguments), result in zip(calls, results):
            if isinstance(result, BaseException):
                raise self._explain(name, function, arguments, where, per_row, result) from result
            returned[name] = result
        return self._combine({name: _checked(name, returned[name], where) for name in self.names})

    def _combine(self, values: dict[str, list[float | Unjudged | None]]) -> Scored:
        total: list[float | None] = []
        for row in zip(*values.values()):
            counting = [(w, value) for w, value in zip(self.weights, row) if w and value is not None]
            known = [w * value for w, value in counting if not isinstance(value, Unjudged)]
            total.append(math.fsum(known) if known and len(known) == len(counting) else None)
        by_name = {n: [None if isinstance(v, Unjudged) else v for v in column] for n, column in values.items()}
        reasons = {
            name: {row: value.reason for row, value in enumerate(column) if isinstance(value, Unjudged)}
            for name, column in values.items()
        }
        return Scored(by_name=by_name, total=total, reasons=reasons)

    def _call(
        self, name: str, function: Reward, arguments: dict[str, Any], where: Sequence[str],
        per_row: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        try:
            values = function(**arguments)
            if inspect.isawaitable(values):
                (values,) = self._loop.run([values])
                if isinstance(values, BaseException):
                    raise values
            return values
        except Exception as error:
            raise self._explain(name, function, arguments, where, per_row, error) from error

    def _explain(
        self, name: str, function: Reward, arguments: dict[str, Any], where: Sequence[str], per_row: Iterable[str],
        error: BaseException,
    ) -> RewardError:  # fmt: skip
        """What is wrong with the call, naming the completion for which it is: they are tried one by one."""
        mine = isinstance(error, RewardError | SamplingError)  # whose words say what to do
        said = str(error) if mine else f"{type(error).__name__}: {error}{_line(function, error)}"
        if isinstance(error, SamplingError) or not where:  # a server that is gone is no completion's fault
            return RewardError(f"reward {name!r}: {said}")
        sliced = set(per_row)
        for row, place in enumerate(where):
            one = {key: [value[row]] if key in sliced else value for key, value in arguments.items()}
            try:
                values = function(**one)
                if inspect.isawaitable(values):
                    (values,) = self._loop.run([values])
            except Exception:
                return RewardError(f"reward {name!r} raised for {place}: {said}")
            if isinstance(values, Exception):
                return RewardError(f"reward {name!r} raised for {place}: {said}")
        return RewardError(f"reward {name!r} raised for {len(where)} completions together, for none alone: {said}")


def _line(function: Reward, error: BaseException) -> str:
    """Where in the function's own file the error arose."""
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return f" ({lines[-1].filename} line {lines[-1].lineno})" if lines else ""


def _function(given: Any) -> Reward:
    if isinstance(given, torch.nn.Module) and not hasattr(given, "config"):
        raise RewardError(
            f"{type(given).__name__} is a model, not a reward function, and no reward model of transformers; wrap it "
            "in a function that takes prompts and completions and returns a list of numbers"
        )
    return make_reward(given)


def _names(functions: Sequence[Reward], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(functions) or len(set(names)) != len(names):
            raise RewardError(f"names={list(names)!r} must be {len(functions)} different names, one for each reward")
        return list(names)
    found: list[str] = []
    for function in functions:
        base = getattr(function, "func", function)  # of a functools.partial
        name = wanted = str(getattr(base, "__name__", type(base).__name__)).strip("<>")
        number = 1
        while name in found:
            number += 1
            name = f"{wanted}_{number}"
        found.append(name)
    return found


def _weights(names: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1.0] * len(names)
    if len(weights) != len(names):
        raise RewardError(f"{len(weights)} weights for {len(names)} rewards ({', '.join(names)}); give one for each")
    for name, weight in zip(names, weights):
        if not isinstance(weight, Real) or isinstance(weight, bool) or not math.isfinite(weight):
            raise RewardError(f"the weight of reward {name!r} is {weight!r}; it must be a finite number")
    if not any(weights):
        raise RewardError(f"every reward ({', '.join(names)}) has weight 0, so nothing would be rewarded")
    return [float(weight) for weight in weights]


def _parameters(name: str, function: Reward) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """The keywords a function takes (None: any), and those it cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built in functions do not say
        return None, ()
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise RewardError(f"reward {name!r} takes {parameter.name!r} by position; rewards are called with keywords")
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in named if p.default is p.empty)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if open_ended else frozenset(p.name for p in named), required


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(type(function), "__call__", None)  # noqa: B004, an object may have an asynchronous one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _checked(name: str, returned: Any, where: Sequence[str]) -> list[float | Unjudged | None]:
    """The values as plain ones. Raises RewardError for anything but one reward for each completion."""
    values = returned.tolist() if hasattr(returned, "tolist") and getattr(returned, "ndim", 0) == 1 else returned
    if not isinstance(values, list | tuple):
        raise RewardError(
            f"reward {name!r} returned {type(returned).__name__} {returned!r:.60}; it must return a list with one "
            f"value for each of the {len(where)} completions"
        )
    if len(values) != len(where):
        raise RewardError(f"reward {name!r} returned {len(values)} values for {len(where)} completions")
    return [_value(name, value, place) for value, place in zip(values, where)]


def _value(name: str, value: Any, place: str) -> float | Unjudged | None:
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value  # numpy, torch
    if plain is None or isinstance(plain, Unjudged):
        return plain
    if not isinstance(plain, Real):
        raise RewardError(
            f"reward {name!r} returned {type(value).__name__} {value!r:.60} for {place}; a value must be a number, or "
            "None where the reward does not apply"
        )
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(
            f"reward {name!r} returned {number} for {place}; a value must be finite, or None where the reward does not "
            "apply"
        )
    return number
