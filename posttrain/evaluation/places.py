"""Errors that say where: the task and the row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from posttrain.errors import DataError, PosttrainError


@contextmanager
def at(place: str) -> Iterator[None]:
    """Around work on one row: an error of the user's is told with the place, any other gets it as a note."""
    try:
        yield
    except PosttrainError as error:
        kind = type(error) if type(error) is not PosttrainError else DataError
        raise kind(f"{place}: {error}") from error
    except Exception as error:
        error.add_note(place)
        raise
