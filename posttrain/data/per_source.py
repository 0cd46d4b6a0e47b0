"""Trees of several sources as one set: each source is read by itself, so that each may be of another format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from posttrain.config.sources import Mixture, as_mixture
from posttrain.data.loading import load_rows
from posttrain.data.mixing import rows_per_epoch
from posttrain.data.report import DataReport, Dropped, path_lengths, spread

if TYPE_CHECKING:
    from posttrain.data.trees import TreeSet

Options = ParamSpec("Options")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Where the trees of a source lie among all, and how many of them an epoch has."""

    source: str
    begin: int
    end: int
    per_epoch: int


def per_source(
    make: Callable[Concatenate[Any, Options], TreeSet],
) -> Callable[Concatenate[Any, Options], TreeSet]:
    """The same maker of trees, which also takes a mixture, or a list of sources: it is called for each of them."""

    @wraps(make)
    def made(rows: Any, *given: Options.args, **options: Options.kwargs) -> TreeSet:
        mixed = as_mixture(rows)
        if mixed is None:
            return make(rows, *given, **options)
        name = str(options.get("name", "train_dataset"))
        parts = [load_rows(source, name=_named(name, number)) for number, source in enumerate(mixed.sources)]
        return _merged([make(part, *given, **options) for part in parts], mixed)

    return made


def _named(name: str, number: int) -> str:
    """What rows without a file are called: the place of their source among all."""
    return f"{name}[{number}]"


def _merged(sets: list[TreeSet], mixed: Mixture) -> TreeSet:
    starts = list(accumulate((len(made.trees) for made in sets), initial=0))
    before = list(accumulate((made.report.rows_read for made in sets), initial=0))
    sizes = [len(made.trees) for made in sets]
    counts = sizes if mixed.weights is None else rows_per_epoch(sizes, mixed.weights, mixed.stop)
    shares = tuple(
        Share(source=made.report.source, begin=start, end=start + len(made.trees), per_epoch=count)
        for made, start, count in zip(sets, starts, counts)
    )
    trees = [tree for made in sets for tree in made.trees]
    lengths = [length for tree in trees for length in path_lengths(tree)]
    return replace(
        sets[0],
        trees=trees,
        rows=[row + offset for made, offset in zip(sets, before) for row in made.rows],
        report=_report([made.report for made in sets], mixed, shares, spread(lengths)),
        shares=shares,
    )


def _report(
    reports: list[DataReport], mixed: Mixture, shares: tuple[Share, ...], lengths: dict[str, int]
) -> DataReport:
    """One report of all: what is the same is said once, what is not for each source."""

    def each(say: Callable[[DataReport], str]) -> str:
        said = {report.source: say(report) for report in reports}
        if len(set(said.values())) == 1:
            return next(iter(said.values()))
        return "; ".join(f"{source}: {text.rstrip('.')}" for source, text in said.items())

    dropped: dict[str, Dropped] = {}
    for report in reports:
        for reason, rows in report.dropped.items():
            first = tuple(_whole(place, report.source) for place in rows.first)
            held = dropped.get(reason, Dropped(count=0, first=()))
            dropped[reason] = Dropped(count=held.count + rows.count, first=(*held.first, *first))
    total = sum(share.per_epoch for share in shares)
    sources = tuple(
        {
            "source": report.source,
            "format": report.format,
            "rows_read": report.rows_read,
            "rows_kept": report.rows_kept,
            "sequences": share.end - share.begin,
            "weight": mixed.weights[index] if mixed.weights is not None else None,
            "per_epoch": share.per_epoch,
            "share": share.per_epoch / total,
        }
        for index, (report, share) in enumerate(zip(reports, shares))
    )
    return replace(
        reports[0],
        source=" + ".join(report.source for report in reports),
        format=" + ".join(dict.fromkeys(report.format for report in reports)),
        understood=each(lambda report: report.understood),
        trained=each(lambda report: report.trained),
        ignored_columns=tuple(dict.fromkeys(column for report in reports for column in report.ignored_columns)),
        rows_read=sum(report.rows_read for report in reports),
        rows_kept=sum(report.rows_kept for report in reports),
        dropped=dropped,
        truncated=sum(report.truncated for report in reports),
        tokens=sum(report.tokens for report in reports),
        trained_tokens=sum(report.trained_tokens for report in reports),
        lengths=lengths,
        notes=(*_about(mixed, sources), *dict.fromkeys(note for report in reports for note in report.notes)),
        sources=sources,
    )


def _whole(place: str, source: str) -> str:
    return place if source in place else f"{place} of {source}"


def _about(mixed: Mixture, sources: tuple[dict[str, Any], ...]) -> list[str]:
    """How an epoch is put together, in words."""
    total = sum(entry["per_epoch"] for entry in sources)
    said = ", ".join(
        f"{entry['per_epoch']:,} of {entry['sequences']:,} from {entry['source']} ({100 * entry['share']:.1f}%)"
        for entry in sources
    )
    if mixed.weights is None:
        return [f"{total:,} sequences an epoch: {said}."]
    ends = {
        "first_exhausted": "It ends when the first source is used up; the others go on where they stopped.",
        "all_exhausted": "It ends when every source is used up; the smaller ones are repeated.",
    }
    return [f"An epoch has {total:,} sequences: {said}. {ends[mixed.stop]}"]
