"""What the stages of a recipe evaluate on, as far as the recipe says it: training data may not hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Fields that name evaluation sets: tasks, a gate with tasks, rows that a loss is measured on, what lint compares with.
_FIELDS = ("tasks", "gate", "eval_dataset", "against")


def evaluated_on(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of tasks and files in the fields of these stages, each once, in order."""
    found: dict[str, None] = {}
    for values in stages:
        for name in _FIELDS:
            value = values.get(name)
            several = value if isinstance(value, list) else [value]
            found |= dict.fromkeys(one for one in several if isinstance(one, str))
    return list(found)
