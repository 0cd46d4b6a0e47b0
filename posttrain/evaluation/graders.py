"""Graders: rewards, and functions of one row and one completion, called alike."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from posttrain.errors import DataError
from posttrain.evaluation.places import at
from posttrain.evaluation.tasks import Grader, Row
from posttrain.rewards.combination import RewardSet
from posttrain.rewards.names import make_reward

Grades = dict[str, float | None]  # None: the grader does not apply to the row, or could not judge the completion


class Graders:
    """A task's graders, made ready. Raises RewardError for what is no grader."""

    def __init__(self, graders: Mapping[str, Grader]) -> None:
        functions = {name: make_reward(given) for name, given in graders.items()}
        self.names = tuple(functions)
        self._by_row = {name: function for name, function in functions.items() if takes_a_row(function)}
        rewards = {name: function for name, function in functions.items() if name not in self._by_row}
        self._rewards = RewardSet(list(rewards.values()), names=list(rewards)) if rewards else None
        self.unjudged: dict[str, int] = {}  # completions that a grader could not judge, so far

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._rewards is not None:
            self._rewards.close()

    def check(self, rows: Sequence[Row]) -> None:
        """Raises RewardError for a grader that needs a column which the rows do not have."""
        if self._rewards is not None:
            self._rewards.check(_columns(rows))

    def grade(
        self,
        rows: Sequence[Row],
        prompts: Sequence[Any],
        texts: Sequence[str],
        tokens: Sequence[Sequence[int]] | None,
        places: Sequence[str],
    ) -> list[Grades]:
        """The grades of completions, each with its row and prompt; `places` name them in errors.

        A reward gets texts for a prompt that is text and messages for a conversation, as in training. Raises DataError
        for a grade outside 0 to 1.
        """
        found: list[Grades] = [{} for _ in rows]
        scored: dict[str, list[float | None]] = {}
        if self._rewards is not None:
            result = self._rewards.score(
                prompts=prompts,
                completions=[
                    text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                    for prompt, text in zip(prompts, texts)
                ],
                completion_ids=tokens,
                columns={name: [row.get(name) for row in rows] for name in _columns(rows)},
                places=places,
            )
            scored = result.by_name
            for name, count in result.unjudged.items():
                self.unjudged[name] = self.unjudged.get(name, 0) + count
        for index, (row, text, place) in enumerate(zip(rows, texts, places)):
            with at(place):
                for name in self.names:
                    own = self._by_row.get(name)
                    value = scored[name][index] if own is None else own(row, text.strip())
                    found[index][name] = _grade(name, value)
        return found


def takes_a_row(function: Callable[..., Any]) -> bool:
    """Whether a grader wants one row and one completion; a reward takes `completions`, or any keyword."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(p.kind is p.VAR_KEYWORD or p.name in ("completions", "prompts", "completion_ids") for p in parameters):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional) == 2


def described(grader: Grader) -> Any:
    """What a grader is known by in the settings of an evaluation: its name and options, and the hash of its file."""
    if not callable(grader):
        name = grader if isinstance(grader, str) else str(grader.get("name"))
        file = Path(name.rpartition(":")[0])
        plain = grader if isinstance(grader, str) else dict(grader)
        return [plain, hashlib.sha256(file.read_bytes()).hexdigest()] if file.is_file() else plain
    function = inspect.unwrap(getattr(grader, "func", grader))
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"


def _grade(name: str, value: Any) -> float | None:
    if value is None:
        return None
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, bool | int | float) or not 0 <= plain <= 1:
        raise DataError(f"grader {name!r} returned {value!r}; it must return a bool or a number from 0 to 1")
    return float(plain)


def _columns(rows: Iterable[Row]) -> list[str]:
    """The columns of any of the rows."""
    return list(dict.fromkeys(str(column) for row in rows for column in row))
