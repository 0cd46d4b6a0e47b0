"""The column of lengths that rows of a dataset may bring with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.config.dataset import DatasetConfig
from posttrain.config.sources import as_mixture
from posttrain.data.loading import load_rows
from posttrain.data.trees import TreeSet
from posttrain.errors import DataError


def column_of_lengths(dataset: Any, config: DatasetConfig) -> tuple[Any, Sequence[float] | None]:
    """The dataset, read where that was needed, and the length that each of its rows gives itself.

    None where rows are not grouped by length, where they have no column `length_column_name`, and for a mixture.
    Raises DataError for a length that is no number.
    """
    if dataset is None or config.train_sampling_strategy != "group_by_length" or as_mixture(dataset) is not None:
        return dataset, None
    rows, name = load_rows(dataset), config.length_column_name
    if name not in rows[0]:
        return rows, None
    lengths = []
    for index, row in enumerate(rows):
        value = row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(
                f"{rows.where(index)}: {name}={value!r} is no number, and group_by_length sorts by this column; name "
                "another in length_column_name, one that is not there for the number of tokens"
            )
        lengths.append(float(value))
    return rows, lengths


def of_trees(lengths: Sequence[float] | None, trees: TreeSet | None) -> list[float] | None:
    """The length of each tree, that of the row it was made from."""
    return None if lengths is None or trees is None else [lengths[row] for row in trees.rows]
