"""Reads a dataset of any kind into rows that know where they came from, so that complaints can say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.config.sources import DATA_SUFFIXES, Mixture, SourceFields, as_mixture, described
from posttrain.data.hub import plain_records
from posttrain.data.mixing import rows_per_epoch
from posttrain.data.places import read_source
from posttrain.data.rows import PROVENANCE as PROVENANCE
from posttrain.data.rows import Rows as Rows
from posttrain.data.rows import joined
from posttrain.errors import DataError

KINDS = (
    f"a datasets.Dataset, a list of dicts, a file ({', '.join(DATA_SUFFIXES)}, or one of these with .gz), a pattern "
    "such as data/*.jsonl, a directory, the name of a dataset on the Hugging Face Hub, or a list of these"
)


def load_rows(source: Any, *, name: str = "train_dataset") -> Rows:
    """The rows of a dataset object, a list of dicts, files, or several of these, one after the other.

    Of a mixture with weights the rows of its first epoch. Raises DataError if unreadable or empty.
    """
    if isinstance(source, Rows):
        rows = source
    elif (mixed := as_mixture(source)) is not None:
        rows = _first_epoch(mixed, [load_rows(part, name=name) for part in mixed.sources], name)
    elif (sources := described(source)) is not None:
        rows = read_source(sources[0], name)
    else:
        rows = Rows(name=name, records=_records(source, name))
    if not rows:
        raise DataError(f"{name}: {rows.path or type(source).__name__} holds no rows. Give at least one.")
    for index, record in enumerate(rows):
        if not isinstance(record, Mapping):
            raise DataError(
                f"{rows.where(index)}: a row must be a dict of columns, got {_show(record)}."
                + (' For plain texts write {"text": ...} for each.' if isinstance(record, str) else "")
            )
    return rows


def _first_epoch(mixed: Mixture, parts: Sequence[Rows], name: str) -> Rows:
    """The rows of an epoch: of each source as many as its weight asks for, from its start, again if short."""
    path = " + ".join(part.source for part in parts)
    if mixed.weights is None:
        return joined(parts, name=name, path=path)
    counts = rows_per_epoch([len(part) for part in parts], mixed.weights, mixed.stop)
    repeated = [part for part, count in zip(parts, counts) for part in _times(part, count)]
    return joined(repeated, name=name, path=path)


def _times(part: Rows, count: int) -> list[Rows]:
    whole, rest = divmod(count, len(part))
    return [part] * whole + ([part.first(rest)] if rest else [])


def _records(source: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """The records of an object in memory."""
    if type(source).__module__.split(".")[0] == "datasets":
        return _from_datasets(source, name)
    if isinstance(source, Mapping):
        raise DataError(
            f"{name}: got a dict with keys {', '.join(map(str, source)) or 'none'}; a dataset is {KINDS}. "
            "For a dict of columns use datasets.Dataset.from_dict(...), of a dict of splits pass one."
        )
    if source is None or isinstance(source, bytes | int | float) or not isinstance(source, Iterable):
        raise DataError(f"{name}: got {_show(source)}; a dataset is {KINDS}.")
    return source if isinstance(source, list) else list(source)


def _from_datasets(source: Any, name: str) -> Sequence[Mapping[str, Any]]:
    import datasets

    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        splits = ", ".join(map(repr, source))
        first = next(iter(source), "train")
        raise DataError(
            f"{name}: got a {type(source).__name__} with the splits {splits}. "
            f"Pass one of them: {name}=dataset[{first!r}]."
        )
    if isinstance(source, datasets.Dataset):
        return plain_records(source)
    if isinstance(source, datasets.IterableDataset):
        return [dict(record) for record in source]
    raise DataError(f"{name}: got a {type(source).__name__} of datasets; a dataset is {KINDS}.")


def _show(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


__all__ = ["KINDS", "PROVENANCE", "Rows", "SourceFields", "load_rows"]
