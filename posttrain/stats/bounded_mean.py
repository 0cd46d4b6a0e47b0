"""A bound of the mean of numbers with a known smallest value, honest where few of them vary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 500  # resamples held in memory


def bounded_lower_bound(
    values: ArrayLike, smallest: float, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> float:
    """The one-sided lower confidence bound of the mean of values that are never below `smallest`.

    It is the 1 - level quantile of weighted means of the values and one more at `smallest`, the weights uniform on
    the simplex: a Bayesian bootstrap that has also seen the worst (Gaffke 2005, arXiv:1905.06208). A plain bootstrap
    of values that happen to be equal has no width; this has. For two values it is Clopper and Pearson's bound; that it
    holds for every distribution is conjectured, and no simulation has broken it.
    """
    array = _checked(np.asarray(values, dtype=np.float64), smallest)
    means = np.concatenate(list(_weighted_means(array, smallest, resamples, seed)))
    return float(np.quantile(means, 1 - level))


def bounded_p_value(
    values: ArrayLike, smallest: float, threshold: float, *, resamples: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """The p-value of "the mean is at most the threshold" by that bound; one for each row of [rows, n] values."""
    array = _checked(np.asarray(values, dtype=np.float64), smallest)
    below = sum((means <= threshold).sum(axis=0) for means in _weighted_means(array, smallest, resamples, seed))
    return np.asarray((below + 1) / (resamples + 1), dtype=np.float64)


def _weighted_means(
    array: NDArray[np.float64], smallest: float, resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Some resamples of the mean at a time, [r] or [r, rows]."""
    rng = np.random.default_rng(seed)
    n = array.shape[-1]
    shifted = (array - smallest).T  # the worst observation then adds nothing
    for start in range(0, resamples, _AT_ONCE):
        weights = rng.standard_exponential((min(_AT_ONCE, resamples - start), n + 1))
        weights /= weights.sum(axis=1, keepdims=True)
        yield smallest + weights[:, :n] @ shifted


def _checked(array: NDArray[np.float64], smallest: float) -> NDArray[np.float64]:
    if array.size == 0 or not np.isfinite(array).all() or array.min() < smallest:
        raise ValueError(f"expected finite numbers of at least {smallest}, at least one; got shape {array.shape}")
    return array
