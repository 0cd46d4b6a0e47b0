"""Can good and bad answers be told apart without reading the prompt? Cross-validated classifiers that have not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from posttrain.curation.linting.auc import Floats, Fold, area, folds_area, paired_area, smallest_seen
from posttrain.curation.linting.features import FEATURES, Features
from posttrain.curation.linting.sides import Marked, Pair
from posttrain.stats import Interval

FOLDS = 5
FEWEST = 20  # prompts; a fifth of fewer is no test
LEVEL = 1 - 0.01 / len(FEATURES)  # of each interval, so that all of them together hold with 99%
CHANCE = 0.5
SHOWN = 12  # features named

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Telling:
    """A feature that tells the sides apart."""

    name: str
    side: str  # where it is more frequent: "chosen" or "rejected", "good" or "bad"
    chosen: float  # share of the better answers that have it; of a number, its mean
    rejected: float
    weight: float  # what it adds to the better side's score


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well one kind of feature tells the better answers from the worse."""

    features: str  # "length", "words", "characters", "format"
    area: Interval
    accuracy: float | None  # share of pairs in which the better side has the higher score; of pairs only
    without_length: Interval | None  # the area of what is left of the scores when length is taken out
    telling: tuple[Telling, ...]


@dataclass(frozen=True, kw_only=True)
class Separability:
    """The classifiers' findings, or why there are none."""

    pairs: int  # that could be compared, or answers
    used: int  # of them
    prompts: int
    paired: bool
    separations: tuple[Separation, ...]
    longer: float | None  # share of pairs, or of pairings of a good and a bad answer, in which the better is the longer
    smallest_seen: float  # an area below this would not have been told from chance

    def as_dict(self) -> dict[str, Any]:
        """The findings as plain values for JSON."""
        return asdict(self)


def pair_separability(pairs: Sequence[Pair], *, total: int, seed: int = 0) -> Separability:
    """Cross-validated areas for pairs, which must differ.

    The classifier is a logistic regression without intercept on the difference of both sides' features, so it treats
    the two orders of a pair as mirror images; folds are made of prompts. `total` is how many pairs there were before
    some were drawn.
    """
    groups = _groups([pair.prompt for pair in pairs])
    separations: list[Separation] = []
    prompts = len(set(groups))
    if prompts >= FEWEST:
        folds = _folds(groups, seed)
        lengths: Floats | None = None
        for kind, extract in FEATURES.items():
            both = extract([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
            chosen, rejected = both.matrix[: len(pairs)], both.matrix[len(pairs) :]
            difference, scale = _scaled(chosen - rejected, dense=kind in ("length", "format"))
            scores = _out_of_fold(difference, folds)
            if kind == "length":
                lengths = difference.toarray()
            left = None if kind == "length" or lengths is None else _without(scores, lengths)
            separations.append(
                Separation(
                    features=kind,
                    area=paired_area(scores, groups, level=LEVEL, seed=seed),
                    accuracy=float(np.mean((scores > 0) + (scores == 0) / 2)),
                    without_length=None if left is None else paired_area(left, groups, level=LEVEL, seed=seed),
                    telling=_telling(both, chosen, rejected, _weights(difference) * scale, ("chosen", "rejected")),
                )
            )
    gained = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
    return Separability(
        pairs=total, used=len(pairs), prompts=prompts, paired=True, separations=tuple(separations),
        longer=float(np.mean((gained > 0) + (gained == 0) / 2)) if len(gained) else None,
        smallest_seen=smallest_seen(prompts, CHANCE, level=LEVEL),
    )  # fmt: skip


def marked_separability(answers: Sequence[Marked], *, total: int, seed: int = 0) -> Separability:
    """The same for single answers that are marked good or bad."""
    from scipy.sparse import hstack

    groups = _groups([answer.prompt for answer in answers])
    labels = np.array([answer.good for answer in answers], dtype=bool)
    separations: list[Separation] = []
    prompts = min(len({g for g, good in zip(groups, labels) if good == kind}) for kind in (True, False))
    if prompts >= FEWEST:
        folds = _folds(groups, seed)
        lengths: Any = None
        for kind, extract in FEATURES.items():
            found = extract([answer.text for answer in answers])
            matrix, scale = _scaled(found.matrix, dense=kind in ("length", "format"))
            if kind == "length":
                matrix = type(matrix)(matrix.toarray() - matrix.toarray().mean(axis=0))
                lengths = matrix
            scored = _scored_folds(matrix, labels, groups, folds)
            left = None
            if kind != "length":
                left = [
                    Fold(scores=_without(f.scores - f.scores.mean(), lengths[folds == n].toarray()), labels=f.labels,
                         groups=f.groups)
                    for n, f in enumerate(scored)
                ]  # fmt: skip
            weights = _fit(hstack([matrix, np.ones((len(labels), 1))]).tocsr(), labels)[:-1] * scale
            separations.append(
                Separation(
                    features=kind,
                    area=folds_area(scored, level=LEVEL, seed=seed),
                    accuracy=None,
                    without_length=None if left is None else folds_area(left, level=LEVEL, seed=seed),
                    telling=_telling(found, found.matrix[labels], found.matrix[~labels], weights, ("good", "bad")),
                )
            )
    sizes = np.array([len(answer.text) for answer in answers], dtype=np.float64)
    return Separability(
        pairs=total, used=len(answers), prompts=prompts, paired=False, separations=tuple(separations),
        longer=area(sizes[labels], sizes[~labels]) if 0 < labels.sum() < len(labels) else None,
        smallest_seen=smallest_seen(prompts, CHANCE, level=LEVEL),
    )  # fmt: skip


def _groups(prompts: Sequence[bytes]) -> list[int]:
    """A number for each prompt; an answer without one stands alone."""
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(prompt or str(i).encode(), len(numbers)) for i, prompt in enumerate(prompts)]


def _folds(groups: Sequence[int], seed: int) -> Any:
    """The fold of each row: prompts dealt out after shuffling, the largest first, always to the smallest fold."""
    sizes: dict[int, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    order = list(sizes)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: -sizes[group])
    filled, fold_of = [0] * FOLDS, {}
    for group in order:
        fold = filled.index(min(filled))
        fold_of[group], filled[fold] = fold, filled[fold] + sizes[group]
    return np.array([fold_of[group] for group in groups])


def _scaled(matrix: Any, *, dense: bool) -> tuple[Any, Floats]:
    """The matrix with columns of unit root mean square where they are measures; n-grams keep their weights."""
    if not dense:
        return matrix, np.ones(matrix.shape[1])
    from scipy.sparse import diags

    size = np.sqrt(np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel())
    scale = np.divide(1.0, size, out=np.zeros_like(size), where=size > 1e-12)
    return (matrix @ diags(scale)).tocsr(), scale


def _fit(matrix: Any, labels: Any) -> Floats:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="liblinear", fit_intercept=False, C=1.0, random_state=0, class_weight="balanced")
    return model.fit(matrix, labels).coef_.ravel()


def _weights(difference: Any) -> Floats:
    """The weights that prefer the chosen side. Every second pair is shown in the other order: the loss is the same."""
    flipped = np.arange(difference.shape[0]) % 2 == 1
    from scipy.sparse import diags

    if difference.shape[0] < 2:
        return np.zeros(difference.shape[1])
    return _fit(diags(np.where(flipped, -1.0, 1.0)) @ difference, ~flipped)


def _out_of_fold(difference: Any, folds: Any) -> Floats:
    """By how much a classifier that has not seen a pair's prompt prefers the chosen side."""
    scores = np.zeros(difference.shape[0])
    for fold in range(FOLDS):
        scores[folds == fold] = difference[folds == fold] @ _weights(difference[folds != fold])
    return scores


def _scored_folds(matrix: Any, labels: Any, groups: Sequence[int], folds: Any) -> list[Fold]:
    from scipy.sparse import hstack

    numbers = np.array(groups)
    made = []
    for fold in range(FOLDS):
        inside = folds == fold
        known = labels[~inside]
        if 0 < known.sum() < len(known):
            weights = _fit(hstack([matrix[~inside], np.ones((len(known), 1))]).tocsr(), known)[:-1]
        else:
            weights = np.zeros(matrix.shape[1])
        made.append(Fold(scores=matrix[inside] @ weights, labels=labels[inside], groups=numbers[inside]))
    return made


def _without(scores: Floats, lengths: Floats) -> Floats:
    """The scores less what a linear function of the lengths says of them."""
    solution, *_ = np.linalg.lstsq(lengths, scores, rcond=None)
    return scores - lengths @ solution


def _telling(
    features: Features, better: Any, worse: Any, weights: Floats, sides: tuple[str, str]
) -> tuple[Telling, ...]:
    """The features that add most to the separation: weight times the difference of the sides.

    That is the difference of the shares of answers that have a word, so that one answer which is full of it does not
    decide, and of the means of what is a measure.
    """
    means = [np.asarray(matrix.mean(axis=0)).ravel() for matrix in (better, worse)]
    counts = [np.asarray((matrix != 0).mean(axis=0)).ravel() for matrix in (better, worse)]
    is_share = np.asarray(features.matrix.max(axis=0).todense()).ravel() <= 1.0
    gain = weights * np.where(is_share, counts[0] - counts[1], means[0] - means[1])
    found = []
    for column in np.argsort(-gain, kind="stable")[:SHOWN]:
        if gain[column] <= 0 or not features.names[column].strip():
            continue
        first, second = (values[column] for values in (counts if is_share[column] else means))
        found.append(
            Telling(
                name=features.names[column],
                side=sides[0] if first > second else sides[1],
                chosen=round(float(first), 4),
                rejected=round(float(second), 4),
                weight=round(float(gain[column]), 4),
            )
        )
    return tuple(found)
