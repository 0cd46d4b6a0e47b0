"""Answers that are marked good or bad as trees, one each; pairs are taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from posttrain.data.formats import READ_BY, detect, examples, holds_pairs
from posttrain.data.loading import Rows, load_rows
from posttrain.data.per_source import per_source
from posttrain.data.report import Tally
from posttrain.data.rewarded_rows import Part, as_demonstration, weights_note
from posttrain.data.trees import EQUAL, TreeSet, Truncation, sft_trees
from posttrain.errors import DataError, nearest
from posttrain.types import Segment

LABELS = ("label", "kto_tag")  # the columns that may hold it, the first that is there
_TRUTHS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}  # text as in a CSV cell


@per_source
def unpaired_trees(
    rows: Any,
    tokenizer: Any,
    *,
    max_length: int | None,
    truncation_mode: Truncation = "keep_start",
    long_rows: Literal["cut", "drop", "error"] = "cut",
    processes: int | None = None,
    name: str = "train_dataset",
) -> TreeSet:
    """A tree of one segment for each answer, with the column `desirable`: 1 for good ones, 0 for bad ones.

    Rows have a `label` (or `kto_tag`) of true or false, or 1 or 0, and whatever SFT reads that has a prompt; of a
    conversation the last turn is the answer. Rows that DPO reads become a good answer and a bad one each.
    `long_rows` and `processes` are those of `sft_trees`.
    Raises DataError for rows that cannot be understood, and if no answer is left.
    """
    rows = load_rows(rows, name=name)
    tally = Tally()
    split = _from_pairs if holds_pairs(list(rows[0])) else _from_labels
    part, labels, understood, notes = split(rows, tally)
    detect(part, task="KTO")
    made = sft_trees(
        part, tokenizer, max_length=max_length, truncation_mode=truncation_mode, long_rows=long_rows,
        processes=processes,
    )  # fmt: skip
    for reason, dropped in made.report.dropped.items():
        tally.dropped[reason] = (dropped.count, list(dropped.first))
    tally.truncated = made.report.truncated
    whole = {row: _last_sequence(tree) for row, tree in zip(made.rows, made.trees)}  # of several the last stays
    trees = [_marked(tree, labels[row]) for row, tree in whole.items()]
    good = sum(labels[row] for row in whole)
    report = tally.report(
        trees,
        tokenizer,
        remedy=f"Give answers that are not empty, or a larger max_length (it is {max_length}).",
        source=rows.source,
        format=f"{made.report.format}, {understood[0]}",
        understood=f"{made.report.understood}, and {understood[1]}",
        trained=made.report.trained,
        ignored_columns=made.report.ignored_columns,
        rows_read=len(part) + tally.dropped.get(EQUAL, (0, []))[0],
        rows_kept=len(trees),
        notes=(
            *notes, f"{good:,} good answers, {len(trees) - good:,} bad ones.", *made.report.notes,
            *weights_note(made.trees),
        ),
    )  # fmt: skip
    return TreeSet(trees=trees, rows=[part.kept[row] for row in whole], report=report)


def count_kinds(trees: Sequence[Segment]) -> tuple[int, int]:
    """How many of the answers are good, and how many bad."""
    good = sum(bool(tree.columns["desirable"][0]) for tree in trees)
    return good, len(trees) - good


def _from_labels(rows: Rows, tally: Tally) -> tuple[Part, list[bool], tuple[str, str], list[str]]:
    columns = [str(column) for column in rows[0]]
    column = next((name for name in LABELS if name in columns), None)
    if column is None:
        near = next((guess for name in columns if (guess := nearest(name, LABELS))), "")
        raise DataError(
            f"{rows.where(0)}: the columns {', '.join(columns) or '(none)'} do not say which answers are good{near}. "
            f"Every row needs {READ_BY['KTO']}."
        )
    labels = [_label(row, column, rows.where(index)) for index, row in enumerate(rows)]
    plain = [as_demonstration(row, (column,), rows.where(index)) for index, row in enumerate(rows)]
    part = Part(name=rows.name, path=rows.path, records=plain, notes=rows.notes, whole=rows, kept=range(len(rows)))
    answer = next((name for name in ("messages", "conversations") if name in columns and "prompt" not in columns), None)
    notes = [f"The last turn of {answer!r} is the answer that is good or bad."] if answer else []
    return part, labels, (f"marked in {column!r}", f"{column!r} says whether it is a good answer"), notes


def _label(row: Mapping[str, Any], column: str, place: str) -> bool:
    value = row.get(column)
    text = value.strip().lower() if isinstance(value, str) else value
    if isinstance(text, bool | int | float | str) and text in _TRUTHS:
        return _TRUTHS[text]
    said = "is missing" if value is None else f"is {value!r:.40}"
    raise DataError(
        f"{place}: {column!r} {said}; it must be true or 1 for a good answer, false or 0 for a bad one. Grades belong "
        "to OfflineRLTrainer, which weighs them; choose a limit to make labels of them."
    )


def _from_pairs(rows: Rows, tally: Tally) -> tuple[Part, list[bool], tuple[str, str], list[str]]:
    records: list[dict[str, Any]] = []
    labels: list[bool] = []
    kept: list[int] = []
    form = detect(rows, task="DPO")
    for example in examples(rows, form):
        chosen, rejected = example.completions
        if chosen == rejected:
            for _ in range(2):
                tally.drop(EQUAL, example.place)
            continue
        shared = {"tools": example.tools, "chat_template_kwargs": dict(example.template_kwargs)}
        for completion, label in ((chosen, True), (rejected, False)):
            records.append({"prompt": example.prompt, "completion": completion, **shared})
            labels.append(label)
            kept.append(example.row)
    if not records:
        raise DataError(f"{rows.source}: no pair is left to take apart: in all {len(rows):,} chosen equals rejected.")
    part = Part(name=rows.name, path=rows.path, records=records, notes=rows.notes, whole=rows, kept=kept)
    note = f"{len(rows):,} pairs were taken apart into a good answer and a bad one each; counted are answers."
    return part, labels, ("from pairs", "the chosen one is good, the rejected one bad"), [note]


def _last_sequence(tree: Segment) -> Segment:
    """The last of the tree's sequences as one segment: under a template that rewrites history, the whole answer."""
    tokens: list[int] = []
    while tree.children:
        tokens += tree.tokens
        tree = tree.children[-1]
    start = len(tokens)
    spans = [(begin + start, end + start) for begin, end in tree.trained]
    return Segment(tokens=[*tokens, *tree.tokens], trained=spans) if start else tree


def _marked(tree: Segment, desirable: bool) -> Segment:
    count = sum(end - begin for begin, end in tree.trained)
    return replace(tree, columns={**tree.columns, "desirable": [float(desirable)] * count})
