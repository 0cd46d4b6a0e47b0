"""Algorithms that give the same bits each time, for the time of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS repeats itself only with a workspace of a fixed size


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """torch's deterministic mode inside, where it is wanted: an operation that has no such algorithm raises."""
    if not wanted:
        yield
        return
    before, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    workspace = os.environ.get(_CUBLAS)
    os.environ[_CUBLAS] = workspace or ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.deterministic = cudnn
        if workspace is None:
            del os.environ[_CUBLAS]
