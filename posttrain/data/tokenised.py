"""Rows that were tokenised before: `input_ids`, and what of them is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from posttrain.data.formats import Format
from posttrain.data.rendering import Rendered
from posttrain.errors import DataError

IGNORED = -100  # the label of a token that is not trained
_MASKS = ("completion_mask", "assistant_masks")

TOKENISED = Format(
    name="tokens",
    sentence="'input_ids' are tokens, made before",
    columns=("input_ids",),
    optional=("labels", *_MASKS, "attention_mask"),
    read=lambda row: (None, ([],)),
)


def is_tokenised(row: Mapping[str, Any]) -> bool:
    """Whether the row holds tokens; TRL tells it by the same column."""
    return row.get("input_ids") is not None


def tokenised_sequence(row: Mapping[str, Any], place: str, *, vocabulary: int, completion_only: bool) -> Rendered:
    """The row's tokens with the spans that are trained.

    Those are: where there are `labels`, the tokens whose label is not -100; else the tokens that `completion_mask`
    (with `completion_only`) and `assistant_masks` mark, and without these every token. Padding, which an
    `attention_mask` marks with 0, is left out. Raises DataError for columns that do not fit together.
    """
    tokens = _numbers(row, "input_ids", place)
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary:
        wrong = next(token for token in tokens if not 0 <= token < vocabulary)
        raise DataError(f"{place}: 'input_ids' has the token {wrong}, but the tokenizer knows 0 to {vocabulary - 1}.")
    wanted = [True] * len(tokens)
    if row.get("labels") is not None:
        labels = _numbers(row, "labels", place, len(tokens))
        other = next((i for i, pair in enumerate(zip(tokens, labels)) if pair[1] not in (pair[0], IGNORED)), None)
        if other is not None:
            raise DataError(
                f"{place}: the label at {other} is {labels[other]} and the token there {tokens[other]}. A label is "
                "the token itself, in its own place and not shifted, or -100 for one that is not trained."
            )
        wanted = [label != IGNORED for label in labels]
    else:
        for name in _MASKS[0 if completion_only else 1 :]:
            if row.get(name) is not None:
                mask = _numbers(row, name, place, len(tokens))
                wanted = [want and bool(bit) for want, bit in zip(wanted, mask)]
    if row.get("attention_mask") is not None:
        seen = _numbers(row, "attention_mask", place, len(tokens))
        tokens = [token for token, bit in zip(tokens, seen) if bit]
        wanted = [want for want, bit in zip(wanted, seen) if bit]
    return Rendered(tokens=tokens, trained=_spans(wanted))


def _numbers(row: Mapping[str, Any], name: str, place: str, length: int | None = None) -> list[int]:
    values = row[name]
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list | tuple) or not all(isinstance(v, int) for v in values):
        raise DataError(f"{place}: {name!r} must be a list of whole numbers, got {str(values)[:60]!r}.")
    if length is not None and len(values) != length:
        raise DataError(f"{place}: {name!r} has {len(values)} entries and 'input_ids' {length}; they must be as long.")
    return list(values)


def _spans(wanted: Sequence[bool]) -> list[tuple[int, int]]:
    runs = [(want, [i for i, _ in run]) for want, run in groupby(enumerate(wanted), key=lambda pair: pair[1])]
    return [(places[0], places[-1] + 1) for want, places in runs if want]


def what_of_tokens(rows_have: Sequence[str], completion_only: bool) -> str:
    """What is trained, for the report, where rows have these columns."""
    if "labels" in rows_have:
        return "the tokens whose label is not -100, but the first."
    masks = [name for name in _MASKS[0 if completion_only else 1 :] if name in rows_have]
    return f"the tokens marked in {' and '.join(masks)}, but the first." if masks else "every token but the first."
