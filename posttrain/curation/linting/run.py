"""Lint: what would go wrong with some data, before an hour is spent on training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.curation.kinds import stream
from posttrain.curation.linting.checks import (
    distance_findings,
    distances,
    outlook_findings,
    pair_findings,
    phrase_findings,
    resemblance_findings,
    row_findings,
    separability_findings,
    token_findings,
)
from posttrain.curation.linting.displacement import PairOutlook, outlooks
from posttrain.curation.linting.findings import Finding, Limits
from posttrain.curation.linting.lengths import Histogram, histogram, spread
from posttrain.curation.linting.report import LintReport
from posttrain.curation.linting.resemblance import Resemblance
from posttrain.curation.linting.scan import Scan
from posttrain.curation.linting.separability import Separability, marked_separability, pair_separability
from posttrain.curation.linting.sides import Pair
from posttrain.curation.linting.tokens import TokenScan
from posttrain.curation.progress import counted
from posttrain.curation.rows import Broken, placed
from posttrain.errors import ConfigError

COMPARED = 10_000  # pairs that the classifiers read
DISTANCES = 2000  # pairs whose edit distance is taken
OUTLOOKS = 200  # pairs that the model reads

_Read = tuple[str, int, Mapping[str, Any] | Broken]


def lint(
    dataset: Any,
    *,
    model: Any = None,
    tokenizer: Any = None,
    against: Sequence[str] = (),
    max_length: int | None = None,
    max_pairs: int = COMPARED,
    model_pairs: int = OUTLOOKS,
    limits: Limits | None = None,
    seed: int = 0,
    name: str = "dataset",
    trust_remote_code: bool = False,
) -> LintReport:
    """What would go wrong with the data: a `datasets.Dataset`, a list of rows, or the path of a file.

    With a `tokenizer` (an object, a directory or a name) lengths are counted in tokens and what is trained is looked
    at; with a `model` also how likely it finds the answers. `against` names evaluation files that the data must not
    contain. At most `max_pairs` pairs are drawn for the classifiers, and `model_pairs` for the model.
    """
    if isinstance(dataset, str):
        reads = _files([dataset])
        name = dataset
    else:
        reads = ((name, number, read) for number, read in enumerate(stream(dataset, name=name), start=1))
    return _lint(
        reads, model=model, tokenizer=tokenizer, against=against, max_length=max_length, max_pairs=max_pairs,
        model_pairs=model_pairs, limits=limits or Limits(), seed=seed, trust_remote_code=trust_remote_code,
    )  # fmt: skip


def lint_files(inputs: Sequence[str], **options: Any) -> LintReport:
    """The same for files and `-`, standard input; options are those of `lint`."""
    defaults = {"model": None, "tokenizer": None, "against": (), "max_length": None, "max_pairs": COMPARED,
                "model_pairs": OUTLOOKS, "limits": None, "seed": 0, "trust_remote_code": False}  # fmt: skip
    settings = {**defaults, **options}
    return _lint(_files(inputs), **{**settings, "limits": settings["limits"] or Limits()})


def _files(inputs: Sequence[str]) -> Iterator[_Read]:
    from posttrain.curation.reading import check_readable, read_file
    from posttrain.curation.rows import check_inputs

    check_inputs(inputs)
    for name in inputs:
        check_readable(name)
    return ((name, line, placed(read, name, line)) for name in inputs for line, read in read_file(name))


def _lint(
    reads: Iterable[_Read],
    *,
    model: Any,
    tokenizer: Any,
    against: Sequence[str],
    max_length: int | None,
    max_pairs: int,
    model_pairs: int,
    limits: Limits,
    seed: int,
    trust_remote_code: bool,
) -> LintReport:
    named = {"model": _name(model), "tokenizer": _name(tokenizer)}
    if max_length is not None and model is None and tokenizer is None:
        raise ConfigError("max_length counts tokens: name the model or the tokenizer with it")
    learner, tokenizer = _opened(model, tokenizer, trust_remote_code)
    scan = Scan(sample=max_pairs, seed=seed)
    resemblance = Resemblance(against, near=limits.near, place=scan.place)
    tokens = None if tokenizer is None else TokenScan(tokenizer, max_length=max_length)
    chosen: dict[str, tuple[Mapping[str, Any], Any]] = {}  # rows of the sample that the model reads
    for source, line, read in counted(reads):
        found = scan.add(source, line, read)
        if not isinstance(read, Broken):
            resemblance.add(scan.here, read, repeated=scan.repeated)
        if found is not None and tokens is not None:
            tokens.add(f"{source}:{line}", *found)
        if found is not None and learner is not None and len(found[1].completions) == 2:
            chosen[f"{source}:{line}"] = found
            if len(chosen) > 4 * max_pairs:  # most have left the sample again
                kept = {pair.place for pair in scan.sample.kept}
                chosen = {place: row for place, row in chosen.items() if place in kept}
    resemblance.flush()
    resemblance.close()
    scan.forget()
    pairs = [one for one in scan.sample.kept if isinstance(one, Pair)]
    findings: list[Finding] = [
        *row_findings(scan, limits), *resemblance_findings(resemblance, scan.rows, limits),
    ]  # fmt: skip
    histograms: list[Histogram | None] = [histogram(scan.lengths, unit="characters")]
    counts: dict[str, Any] = {
        "broken": scan.broken.count, "empty": scan.empty.count, "duplicates": scan.duplicates.count,
        "near_duplicates": resemblance.near.count, "evaluation_overlap": resemblance.overlap.count,
        "evaluation_questions": resemblance.questions,
        "pairs": scan.pairs, "identical": scan.identical.count, "contradictory": scan.contradictory.count,
        "good": scan.marked[True], "bad": scan.marked[False],
    }  # fmt: skip
    if tokens is not None:
        tokens.flush()
        seen = tokens.found
        findings += token_findings(seen, limits, max_length)
        histograms.append(histogram({"row": seen.lengths}, unit="tokens", limit=max_length))
        counts["tokens"] = {
            "rows": seen.rows, "tokens": seen.tokens, "trained": seen.trained, "cut": seen.cut.count,
            "untrained": seen.untrained.count, "refused": seen.refused.count, "spans": seen.spans,
            "stopped": seen.stopped, "stop_tokens": [tokenizer.convert_ids_to_tokens(t) for t in seen.stops],
            "notes": sorted(seen.notes),
        }  # fmt: skip
    findings += pair_findings(scan, limits)
    findings += phrase_findings(pairs, limits)
    separability = _separability(scan, seed)
    if separability is not None:
        findings += separability_findings(separability, limits)
    measured = pairs[:DISTANCES]
    apart = distances(measured)
    findings += distance_findings(measured, apart, limits)
    seen_pairs: list[PairOutlook] = []
    if learner is not None and pairs:
        seen_pairs = _outlooks([chosen[p.place] for p in pairs[:model_pairs]], [p.place for p in pairs[:model_pairs]],
                               learner, tokenizer, max_length)  # fmt: skip
        findings += outlook_findings(seen_pairs)
    return LintReport(
        inputs=tuple(
            {"name": s.name, "format": s.format, "understood": s.understood, "rows": s.rows}
            for s in scan.sources.values()
        ),
        rows=scan.rows,
        findings=tuple(_briefly(findings, list(scan.sources))),
        settings={**named, "against": list(against), "max_length": max_length, "max_pairs": max_pairs,
                  "model_pairs": model_pairs, "seed": seed, "limits": vars(limits)},
        counts=counts,
        histograms=tuple(one for one in histograms if one is not None),
        separability=separability,
        distances=spread(apart),
        outlooks=tuple(seen_pairs),
        example=None if tokens is None else tokens.found.example,
        paired=scan.pairs > 0,
    )  # fmt: skip


def _briefly(findings: Sequence[Finding], sources: Sequence[str]) -> list[Finding]:
    """The findings, whose texts do not name the only input with every row."""
    if len(sources) != 1:
        return list(findings)
    place = re.compile(rf"{re.escape(sources[0])}:(?=\d)")
    return [replace(finding, text=place.sub("line ", finding.text)) for finding in findings]


def _separability(scan: Scan, seed: int) -> Separability | None:
    pairs = [one for one in scan.sample.kept if isinstance(one, Pair)]
    if pairs:
        return pair_separability(pairs, total=scan.pairs, seed=seed)
    if scan.sample.kept:
        total = scan.marked[True] + scan.marked[False]
        return marked_separability(scan.sample.kept, total=total, seed=seed)
    return None


def _name(given: Any) -> str | None:
    """What a model or tokenizer is called in the report."""
    if given is None or isinstance(given, str):
        return given
    return str(getattr(given, "name_or_path", "") or type(given).__name__)


def _opened(model: Any, tokenizer: Any, trust_remote_code: bool) -> tuple[Any, Any]:
    """A learner and a tokenizer, loaded where they were named; None where nothing was given."""
    if model is None and tokenizer is None:
        return None, None
    from posttrain.models.loading import load_model, load_tokenizer, prepare_tokenizer

    if tokenizer is None:
        if not isinstance(model, str):
            raise ConfigError("a model that is an object needs its tokenizer too: lint(..., tokenizer=tokenizer)")
        tokenizer = model
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
        prepare_tokenizer(tokenizer)
    if model is None:
        return None, tokenizer
    from posttrain.models.learner import Learner
    from posttrain.models.quiet import no_progress_bars

    if isinstance(model, str):
        with no_progress_bars():
            model = load_model(model, trust_remote_code=trust_remote_code)
    return Learner(model), tokenizer


def _outlooks(
    found: Sequence[tuple[Mapping[str, Any], Any]],
    places: Sequence[str],
    learner: Any,
    tokenizer: Any,
    max_length: int | None,
) -> list[PairOutlook]:
    """The pairs as the model sees them, those left out that cannot be trained."""
    from posttrain.data.loading import Rows
    from posttrain.data.trees import preference_trees
    from posttrain.errors import DataError

    seen: list[PairOutlook] = []
    for (columns, _), place in zip(counted(found, total=len(found), unit="pair"), places):
        try:
            rows = Rows(name="rows", records=[columns])
            trees = preference_trees(rows, tokenizer, max_length=max_length)
        except DataError:
            continue  # said by the findings on tokens
        seen += outlooks(trees.trees, [place], learner)
    learner.release()
    return seen
