"""Datasets that are read while they are trained: what they are opened from, and what cannot be streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.config.sources import SourceFields, as_mixture, described
from posttrain.config.streaming import StreamingConfig
from posttrain.curation.reading import read_file
from posttrain.curation.rows import Broken
from posttrain.data.places import data_files, rename
from posttrain.data.rows import Rows
from posttrain.data.streaming import Placed, RowStream
from posttrain.data.trees import TreeSet
from posttrain.errors import ConfigError, DataError


def is_streamed(dataset: Any, config: StreamingConfig) -> bool:
    """Whether the dataset is read while it is trained: as asked, or because nobody knows its length."""
    if config.streaming is not None:
        return config.streaming
    if type(dataset).__module__.split(".")[0] != "datasets" or type(dataset).__name__ != "IterableDataset":
        return False
    if config.max_steps < 1:
        raise ConfigError(
            "train_dataset is an IterableDataset, whose length is not known: set max_steps to stream it, or "
            "streaming=False to read all of it before the training"
        )
    return True


def stream_of(
    dataset: Any, make: Callable[[Rows], TreeSet], config: StreamingConfig, *, name: str = "train_dataset",
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> TreeSet:  # fmt: skip
    """The dataset's first rows as trees, with the stream that the training reads; `change` is applied to each row.

    Raises DataError for what can be read only once, and for a mixture.
    """
    opened, source = _opener(dataset, name)

    def rows() -> Iterator[Placed]:
        return ((place, row if change is None else change(row)) for place, row in opened())

    stream = RowStream(name=name, source=source, open=rows, make=make)
    return stream.first(config.shuffle_buffer_size, shuffled=config.train_sampling_strategy == "random")


def _opener(dataset: Any, name: str) -> tuple[Callable[[], Iterator[Placed]], str]:
    """What reads the rows from the start, and what they are called."""
    if (mixed := as_mixture(dataset)) is not None:
        if mixed.weights is not None:
            raise DataError(
                f"{name}: a mixture with weights is not streamed, because the length of its epoch is not known. Give "
                "datasets.interleave_datasets([...], probabilities=[...]) of streamed datasets, or leave streaming out."
            )
        parts = [_opener(part, name) for part in mixed.sources]
        return lambda: (row for opened, _ in parts for row in opened()), " + ".join(source for _, source in parts)
    if (sources := described(dataset)) is not None:
        return _of_source(sources[0], name), sources[0].path
    if not hasattr(dataset, "__iter__") or isinstance(dataset, Mapping):
        raise DataError(f"{name}: a {type(dataset).__name__} cannot be streamed; give files or an iterable of rows.")
    if iter(dataset) is dataset:
        raise DataError(
            f"{name}: a {type(dataset).__name__} can be read only once, and each pass and each resumed run reads it "
            "from the start. Give datasets.IterableDataset.from_generator(function), or a list."
        )
    return lambda: ((f"row {number} of {name}", row) for number, row in enumerate(dataset)), name


def _of_source(source: SourceFields, name: str) -> Callable[[], Iterator[Placed]]:
    files, _ = data_files(source, name)

    def placed() -> Iterator[Placed]:
        for place, row in islice(_read(files, source, name), source.rows):
            yield place, rename(row, source.columns, lambda place=place: place) if source.columns else row

    return placed


def _read(files: list[Path] | None, source: SourceFields, name: str) -> Iterator[Placed]:
    if files is None:
        from posttrain.data.hub import load_named

        for number, row in enumerate(load_named(source, name, streaming=True)):
            yield f"row {number} of {source.path}", row
        return
    for file in files:
        if file.suffix == ".arrow":
            import datasets

            yield from ((f"row {i} of {file}", row) for i, row in enumerate(datasets.Dataset.from_file(str(file))))
            continue
        for line, row in read_file(str(file)):
            if isinstance(row, Broken):
                raise DataError(f"{row.place}: {row.reason}")
            yield f"{file}:{line}", row
