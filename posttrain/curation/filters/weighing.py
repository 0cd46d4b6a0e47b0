"""What is decided when all rows are known: scores against each other, the best of duplicates, a choice of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from posttrain.config.curation.filter import FilterFields
from posttrain.curation.filters.diversity import embedding_vectors, from_clusters, k_centres, tfidf_vectors
from posttrain.curation.filters.duplicates import Duplicates
from posttrain.curation.filters.names import IFD, REWARD, SELECT
from posttrain.curation.filters.processes import chunked, in_processes
from posttrain.curation.filters.sifting import marker, placed_chunks
from posttrain.curation.filters.spoken import spoken
from posttrain.curation.filters.stores import Store
from posttrain.curation.filters.work import Verdict
from posttrain.curation.provenance import noted, provenance
from posttrain.curation.rows import Row

SCORED_TOGETHER = 64  # rows that a model is given at once


def needs_all(fields: FilterFields) -> bool:
    """Whether these settings decide anything that takes all rows, or a model."""
    return bool(fields.ifd_model or fields.reward or fields.select or fields.keep == "best")


def check_named(fields: FilterFields) -> None:
    """Raises PosttrainError for a reward or a model that is not there: before a million rows are read, not after."""
    if fields.reward:
        from posttrain.curation.filters.reward_scores import RewardScorer

        RewardScorer(fields.reward, fields.reward_options).close()
    for name in filter(None, (fields.ifd_model, fields.embedding_model)):
        from posttrain.models.loading import load_tokenizer

        load_tokenizer(name)


def scored(rows: Iterable[Row], fields: FilterFields) -> Iterator[Row]:
    """The rows with their scores in the provenance, or why there is none (`unscored`)."""
    with ExitStack() as stack:
        scorers: dict[str, Callable[[Sequence[Row]], list[float | str]]] = {}
        if fields.ifd_model:
            from posttrain.curation.filters.ifd import IFDScorer

            ifd = IFDScorer.load(fields.ifd_model, max_length=fields.max_length)
            scorers[IFD] = stack.enter_context(closing(ifd))
        if fields.reward:
            from posttrain.curation.filters.reward_scores import RewardScorer

            scorers[REWARD] = stack.enter_context(closing(RewardScorer(fields.reward, fields.reward_options)))
        for chunk in chunked(rows, SCORED_TOGETHER):
            values = {name: scorer(chunk) for name, scorer in scorers.items()}
            for number, row in enumerate(chunk):
                mine = {name: of_name[number] for name, of_name in values.items()}
                why = {name: value for name, value in mine.items() if isinstance(value, str)}
                row = noted(row, scores={name: value for name, value in mine.items() if name not in why})
                yield noted(row, unscored=why) if why else row


def weigh(rows: Store, fields: FilterFields) -> list[Verdict | None]:
    """What removes each row; None for those that stay."""
    verdicts: list[Verdict | None] = [None] * len(rows)
    scores = _scores(rows, fields)
    for name, least, most, top in (
        (IFD, fields.min_ifd, fields.max_ifd, fields.top_ifd), (REWARD, fields.min_reward, None, fields.top_reward)
    ):  # fmt: skip
        if (least, most, top) != (None, None, None):
            _threshold(name, scores[name], (least, most, top), verdicts)
    if fields.keep == "best":
        _best_of_duplicates(rows, fields, _goodness(fields, scores), verdicts)
    if fields.select is not None:
        _select(rows, fields, _goodness(fields, scores), verdicts)
    return verdicts


def _scores(rows: Store, fields: FilterFields) -> dict[str, NDArray[np.float64]]:
    """Each score of every row, NaN where there is none, and the length of its answers."""
    names = [name for name, there in ((IFD, fields.ifd_model), (REWARD, fields.reward)) if there]
    found: dict[str, NDArray[np.float64]] = {name: np.full(len(rows), np.nan) for name in [*names, "length"]}
    if not names and fields.best_by != "length":
        return found
    for number, row in enumerate(rows.take()):
        for name in names:
            found[name][number] = provenance(row).get("scores", {}).get(name, np.nan)
        if fields.best_by == "length":
            found["length"][number] = sum(map(len, spoken(row).answers))
    return found


def _goodness(fields: FilterFields, scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """What is best: higher numbers; unscored rows come last."""
    name = fields.best_by or ("reward" if fields.reward else "ifd" if fields.ifd_model else None)
    return None if name is None else np.nan_to_num(scores[name], nan=-np.inf)


def _threshold(
    name: str, values: NDArray[np.float64], limits: tuple[float | None, float | None, float | None],
    verdicts: list[Verdict | None],
) -> None:  # fmt: skip
    least, most, top = limits
    for number in _left(verdicts).tolist():
        value = values[number]
        if math.isnan(value):
            verdicts[number] = (name, f"has no {name}")
        elif least is not None and value < least:
            verdicts[number] = (name, f"{name} {value:.4g} is below {least:g}")
        elif most is not None and value > most:
            verdicts[number] = (name, f"{name} {value:.4g} is above {most:g}")
    if top is not None:
        left = _left(verdicts)
        order = left[np.argsort(-values[left], kind="stable")]
        for rank, number in enumerate(order.tolist(), start=1):
            if rank > math.ceil(top * len(left)):
                verdicts[number] = (name, f"{name} {values[number]:.4g} is number {rank:,} of {len(left):,}")


def _best_of_duplicates(
    rows: Store, fields: FilterFields, goodness: NDArray[np.float64] | None, verdicts: list[Verdict | None]
) -> None:
    left = _left(verdicts)
    order = left if goodness is None else left[np.argsort(-goodness[left], kind="stable")]
    at = 0
    with Duplicates(exact=fields.duplicates, near=fields.near) as duplicates:
        chunks = placed_chunks(rows.take(order.tolist()))
        for places, marks in in_processes(marker, fields, chunks, fields.workers):
            for number, verdict in zip(order[at : at + len(places)].tolist(), duplicates.judge(marks, places)):
                verdicts[number] = verdict
            at += len(places)


def _select(
    rows: Store, fields: FilterFields, goodness: NDArray[np.float64] | None, verdicts: list[Verdict | None]
) -> None:
    left = _left(verdicts)
    assert fields.select is not None
    if fields.select >= len(left):
        return

    def texts() -> Iterator[str]:
        return (spoken(row).text for row in rows.take(left.tolist()))

    if fields.embedding_model is None:
        vectors = tfidf_vectors(texts, len(left))
    else:
        vectors = embedding_vectors(texts, len(left), fields.embedding_model, max_length=fields.max_length)
    if fields.select_by == "k_centre":
        chosen = k_centres(vectors, fields.select)
    else:
        chosen = from_clusters(vectors, fields.select, None if goodness is None else goodness[left], seed=fields.seed)
    out = set(left.tolist()) - set(left[chosen].tolist())
    for number in out:
        verdicts[number] = (SELECT, f"is not among the {fields.select:,} selected of {len(left):,}")


def _left(verdicts: Sequence[Verdict | None]) -> NDArray[np.int64]:
    return np.flatnonzero([verdict is None for verdict in verdicts])
