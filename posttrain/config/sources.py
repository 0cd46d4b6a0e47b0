"""Where rows come from, in words: one source or several with weights, as files, recipes and flags write them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from posttrain.config.base import Config, option
from posttrain.errors import ConfigError

Stop = Literal["first_exhausted", "all_exhausted"]
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow")
_WEIGHT = re.compile(r"^(\d+(?:\.\d+)?|\.\d+):(?=.)")
_GLOB = re.compile(r"[*?\[]")
_OF_ROWS = {"text", "messages", "conversations", "prompt", "chosen", "instruction", "question", "query"}
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


class SourceFields(Config):
    """One source of rows, and how it is read."""

    path: str = option(..., "A file, a directory, a pattern such as data/*.jsonl, or a name on the Hugging Face Hub.")
    config: str | None = option(None, "The dataset's configuration; also written NAME:CONFIG.")
    split: str | None = option(None, "The split; none = train, where there are splits.")
    revision: str | None = option(None, "The dataset's revision on the Hub.")
    columns: dict[str, str] | None = option(
        None, "Columns by the names that are read: {completion: canonical_solution}; a.0.b reaches into a value."
    )
    rows: int | None = option(None, "Rows that are taken, from the start; none = all.", ge=1)
    weight: float | None = option(None, "Share of the rows of an epoch, relative to the other sources.", gt=0)

    @classmethod
    def parse(cls, value: str | os.PathLike[str] | Mapping[str, Any]) -> SourceFields:
        """The source that a path, or a mapping of fields, describes; `0.7:a.jsonl` is a path with its weight."""
        if isinstance(value, SourceFields):
            return value
        if isinstance(value, Mapping):
            return cls(**{str(key): item for key, item in value.items()})
        text = os.fspath(value)
        weighed = _WEIGHT.match(text)
        if weighed is None or os.path.exists(text):
            return cls(path=text)
        return cls(path=text[weighed.end() :], weight=float(weighed[1]))

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.path.strip():
            yield "path", "path is empty; name a file, a directory or a dataset"
        for target, column in (self.columns or {}).items():
            if not isinstance(column, str) or not target or not column:
                yield "columns", f"columns[{target!r}]={column!r} must be the name of a column"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources as one. With weights, an epoch has exactly as many rows of each as its weight asks for."""

    sources: tuple[Any, ...]  # whatever is a dataset by itself: rows, a path, a SourceFields
    weights: tuple[float, ...] | None = None  # None: every row of every source, once an epoch
    stop: Stop = "first_exhausted"  # how long an epoch is: until one source is used up, or until all are


def mixture(
    sources: Sequence[Any], weights: Sequence[float] | None = None, *, stop: Stop = "first_exhausted"
) -> Mixture:
    """Datasets as one, to be given as `train_dataset`.

        SFTTrainer(..., train_dataset=mixture(["chat.jsonl", more_rows], weights=[0.7, 0.3]))

    Each may be of another format. `weights=None` takes every row of each. With weights, an epoch ends when the first
    source is used up (`stop="first_exhausted"`), or when all are ("all_exhausted"): then the smaller ones are repeated.
    Raises ConfigError for weights that do not fit.
    """
    if isinstance(sources, str | Mapping) or not isinstance(sources, Sequence) or not sources:
        raise ConfigError(f"mixture: sources={sources!r} must be a list of datasets")
    if weights is not None:
        if len(weights) != len(sources):
            raise ConfigError(f"mixture: {len(weights)} weights for {len(sources)} sources; give one for each")
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ConfigError(f"mixture: weights={list(weights)!r} must be numbers above 0")
    if stop not in get_args(Stop):
        raise ConfigError(f"mixture: stop={stop!r} must be one of {', '.join(get_args(Stop))}")
    return Mixture(sources=tuple(sources), weights=None if weights is None else tuple(map(float, weights)), stop=stop)


def described(value: Any) -> list[SourceFields] | None:
    """The sources that a path, a mapping with a path, or a list of these describes; None for data itself."""
    if isinstance(value, SourceFields):
        return [value]
    if isinstance(value, str | os.PathLike):
        return [SourceFields.parse(value)]
    if isinstance(value, Mapping):
        return [SourceFields.parse(value)] if _describes(value) else None
    if isinstance(value, list | tuple) and value and all(_describes(item) for item in value):
        return [SourceFields.parse(item) for item in value]
    return None


def as_mixture(value: Any, *, stop: Stop = "first_exhausted") -> Mixture | None:
    """The mixture that a list of several sources describes, or that this is; None for a single source, or for data.

    Raises ConfigError where some sources have a weight and others have none.
    """
    if isinstance(value, Mixture):
        return value
    sources = described(value)
    if sources is None or len(sources) == 1:
        return None
    weighed = [source for source in sources if source.weight is not None]
    if not weighed:
        return mixture(sources, stop=stop)
    if len(weighed) < len(sources):
        bare = next(source for source in sources if source.weight is None)
        raise ConfigError(f"{bare.path!r} has no weight, {weighed[0].path!r} has; give one to each source, or to none")
    return mixture(sources, [source.weight for source in sources if source.weight is not None], stop=stop)


def _describes(value: Any) -> bool:
    """Whether this is a source and not a row, which may have a column `path` beside what is trained."""
    if isinstance(value, SourceFields | os.PathLike):
        return True
    if isinstance(value, Mapping):
        path = value.get("path")
        if not isinstance(path, str):
            return False
        return value.keys() <= SourceFields.model_fields.keys() or (
            looks_like_a_source(path) and not _OF_ROWS & value.keys()
        )
    return isinstance(value, str) and looks_like_a_source(value)


def looks_like_a_source(text: str) -> bool:
    """Whether a text names a file, a pattern or a dataset, rather than being a row of text."""
    bare = _WEIGHT.sub("", text)
    if "\n" in text or len(text) > 1000:
        return False
    ends = bare.lower().removesuffix(".gz").endswith(DATA_SUFFIXES)
    named = "/" in bare and bool(_NAME.fullmatch(bare) or _GLOB.search(bare))
    return ends or named or os.path.exists(bare)


def is_pattern(path: str) -> bool:
    """Whether the path has wildcards."""
    return bool(_GLOB.search(path))


def is_hub_name(path: str) -> bool:
    """Whether the path could be the name of a dataset on the Hub, with `:config` after it."""
    return bool(_NAME.fullmatch(path)) and not path.lower().removesuffix(".gz").endswith(DATA_SUFFIXES)
