"""Datasets that the package `datasets` loads: by their name on the Hugging Face Hub, or from a directory it wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.sources import SourceFields
from posttrain.data.rows import Rows
from posttrain.errors import DataError, nearest


def load_named(source: SourceFields, name: str, *, streaming: bool = False) -> Rows | Any:
    """The rows of `org/name`, `org/name:config`, or of a directory that `datasets` knows; streamed as its own object.

    Without a split the train split is taken. What was downloaded before is read without a network. Raises DataError
    where there is no such dataset, configuration or split, or no network to fetch it by.
    """
    import datasets

    directory = Path(source.path).expanduser()
    try:
        if directory.is_dir() and not (directory / "README.md").exists() and source.config is None:
            found: Any = datasets.load_from_disk(str(directory))
            if streaming:
                found = _streamed(found)
        else:
            path, _, config = (str(directory), "", "") if directory.is_dir() else source.path.partition(":")
            if config and source.config not in (None, config):
                raise DataError(f"{name}: {source.path!r} and config={source.config!r} contradict each other; keep one")
            found = datasets.load_dataset(
                path, source.config or config or None, revision=source.revision, streaming=streaming
            )
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise DataError(_not_found(source, name, error)) from None
    except (ValueError, RuntimeError, datasets.exceptions.DatasetBuildError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{name}: `datasets` cannot load {source.path!r}: {said[:600]}") from None
    chosen = one_split(found, source, name)
    if streaming:
        return chosen
    notes = [f"{source.path} is read with datasets.load_dataset."] if not directory.is_dir() else []
    return Rows(name=name, path=source.path, records=plain_records(chosen), notes=tuple(notes))


def _streamed(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {split: part.to_iterable_dataset() for split, part in found.items()}
    return found.to_iterable_dataset()


def one_split(found: Any, source: SourceFields, name: str) -> Any:
    """The split that is asked for; train where none is."""
    if not isinstance(found, Mapping):
        if source.split is not None:
            raise DataError(f"{name}: {source.path!r} has no splits; leave split={source.split!r} out")
        return found
    split = source.split or ("train" if "train" in found or len(found) > 1 else next(iter(found)))
    if split in found:
        return found[split]
    splits = ", ".join(map(repr, found))
    hint = f"{nearest(split, list(found))} Write split={next(iter(found))!r}, or give train_dataset=dataset[...]."
    raise DataError(f"{name}: {source.path!r} has the splits {splits} and no {split!r}{hint}")


def _not_found(source: SourceFields, name: str, error: Exception) -> str:
    path, switches = Path(source.path), ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    offline = any(os.environ.get(switch, "").upper() in ("1", "TRUE", "YES", "ON") for switch in switches)
    start = f"{name}: there is no file or directory {source.path!r}"
    beside = [p.name for p in Path().iterdir()] if len(path.parts) == 1 else []
    start += nearest(source.path, beside).rstrip("?.") if beside else ""
    if isinstance(error, ConnectionError):
        why = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        return (
            f"{start}, and as a dataset of the Hugging Face Hub it is not in the local cache, while {why}. Download it "
            f"where there is a network, with datasets.load_dataset({source.path.partition(':')[0]!r}), or name a file."
        )
    said = " ".join(str(error).split())
    return f"{start}, and no such dataset on the Hugging Face Hub that this machine may read ({said[:300]})."


def plain_records(dataset: Any) -> Sequence[Mapping[str, Any]]:
    """The records of a `datasets.Dataset` as dicts of plain values."""
    if dataset.format["type"] == "custom":  # by with_transform, whose output is what the user wants
        return list(dataset)
    return dataset.with_format(None).to_list()
