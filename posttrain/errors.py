"""The errors a user can cause. Each message says what was found, where, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PosttrainError(Exception):
    """Base of every error that the user, not the program, can mend."""


class ConfigError(PosttrainError):
    """A setting that is unknown, out of range or contradicts another."""


class DataError(PosttrainError):
    """A file, row or field that cannot be read or trained on."""


class ModelError(PosttrainError):
    """A model, tokenizer or adapter that cannot be loaded or does not fit the task."""


class CheckpointError(PosttrainError):
    """A checkpoint that is missing, incomplete or belongs to another run."""


class TrainingError(PosttrainError):
    """A run that cannot go on: non-finite gradients, no memory left, no data left."""


class GateError(PosttrainError):
    """A run of which no checkpoint may be shipped: nothing is written as its model."""


class HubError(PosttrainError):
    """A model hub that cannot be reached, refuses, or does not take an upload; what was trained is still here."""


class SamplingError(PosttrainError):
    """Answers that cannot be had: a server that refuses or is gone, a prompt that does not fit."""


class RewardError(PosttrainError):
    """A reward that cannot be made or used, or a reward function that raised or returned what is no reward."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of the allowed names, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""
