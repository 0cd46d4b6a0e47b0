"""A bar on stderr for what takes longer than two seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def counted(iterable: Iterable[T], total: int | None = None, unit: str = "row") -> Iterator[T]:
    """The same items, with a bar that shows rate and, where the total is known, the time left.

    Nothing is shown where stderr is no terminal.
    """
    from tqdm import tqdm

    yield from tqdm(iterable, total=total, unit=unit, delay=2, disable=None, unit_scale=True, leave=False)
