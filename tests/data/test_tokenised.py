"""Rows that were tokenised before, and rows read in several processes."""

from __future__ import annotations

from typing import Any

import pytest
from chats import assistant, user

from posttrain.data.processes import in_processes
from posttrain.data.trees import sft_trees
from posttrain.errors import DataError


def spans(tokenizer: Any, row: dict[str, Any], **options: Any) -> Any:
    (tree,) = sft_trees([row], tokenizer, **{"max_length": None, **options}).trees
    return list(tree.tokens), list(tree.trained)


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({}, {}, [(1, 6)]),
        ({"labels": [-100, -100, 7, 8, -100, 10]}, {}, [(2, 4), (5, 6)]),
        ({"labels": [5, 6, -100, -100, -100, -100], "completion_mask": [0] * 6}, {}, [(1, 2)]),
        ({"completion_mask": [0, 0, 0, 1, 1, 1]}, {}, [(3, 6)]),
        ({"completion_mask": [0, 0, 0, 1, 1, 1]}, {"completion_only_loss": True}, [(3, 6)]),
        ({"completion_mask": [0, 0, 0, 1, 1, 1]}, {"completion_only_loss": False}, [(1, 6)]),
        ({"assistant_masks": [0, 1, 0, 0, 1, 0]}, {}, [(1, 2), (4, 5)]),
        ({"assistant_masks": [0, 1, 0, 0, 1, 0], "completion_mask": [0, 0, 0, 1, 1, 1]}, {}, [(4, 5)]),
    ],
)
def test_what_ready_rows_train(tiny_tokenizer: Any, columns: Any, options: Any, expected: Any) -> None:
    tokens, found = spans(tiny_tokenizer, {"input_ids": [5, 6, 7, 8, 9, 10], **columns}, **options)
    assert found == expected
    assert tokens == [5, 6, 7, 8, 9, 10][: expected[-1][1]]


def test_padding_is_left_out(tiny_tokenizer: Any) -> None:
    row = {
        "input_ids": [0, 0, 5, 6, 7, 0],
        "attention_mask": [0, 0, 1, 1, 1, 0],
        "labels": [-100, -100, -100, 6, 7, -100],
    }
    assert spans(tiny_tokenizer, row) == ([5, 6, 7], [(1, 3)])


def test_ready_rows_are_cut_unless_they_are_taken_as_they_are(tiny_tokenizer: Any) -> None:
    row = {"input_ids": [5, 6, 7, 8, 9]}
    assert spans(tiny_tokenizer, row, max_length=3) == ([5, 6, 7], [(1, 3)])
    assert spans(tiny_tokenizer, row, max_length=3, prepared=True) == ([5, 6, 7, 8, 9], [(1, 5)])
    report = sft_trees([row, {"input_ids": [5]}], tiny_tokenizer, max_length=3).report
    assert (report.format, report.rows_kept, report.truncated) == ("tokens", 1, 1)
    assert "every token but the first" in report.text()


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"input_ids": [5, 6], "labels": [5]}, "'labels' has 1 entries and 'input_ids' 2"),
        ({"input_ids": [5, 6], "labels": [6, -100]}, "not shifted"),
        ({"input_ids": [5, 10**6]}, "has the token 1000000"),
        ({"input_ids": [5, "a"]}, "whole numbers"),
        ({"text": "a"}, "no 'input_ids', which the first row has"),
    ],
)
def test_ready_rows_that_do_not_fit_are_named(tiny_tokenizer: Any, row: Any, part: str) -> None:
    with pytest.raises(DataError, match="row 1 of train_dataset") as caught:
        sft_trees([{"input_ids": [5, 6]}, row], tiny_tokenizer, max_length=None)
    assert part in str(caught.value)


def test_rows_said_to_be_ready_must_be(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"text.* no 'input_ids'.*skip_prepare_dataset"):
        sft_trees([{"text": "a"}], tiny_tokenizer, max_length=None, prepared=True)


def test_several_processes_read_the_same(chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"messages": [user(str(i)), assistant("x" * i, weight=i % 3), user("y"), assistant(str(i))]}
        for i in range(1, 12)
    ]
    alone = sft_trees(rows, chat_tokenizer, max_length=None)
    monkeypatch.setattr("posttrain.data.trees.CHUNK", 3)
    assert sft_trees(rows, chat_tokenizer, max_length=None, processes=2) == alone
    bad = {"messages": [user("a"), assistant("b", weight=-1)]}
    with pytest.raises(DataError, match="row 11 of train_dataset"):
        sft_trees([*rows, bad], chat_tokenizer, max_length=None, processes=2)


def test_other_processes_do_the_work() -> None:
    found = list(in_processes(_process, range(5), 2))
    assert [chunk for chunk, _ in found] == list(range(5))
    here = next(result for _, result in in_processes(_process, [0], 1))
    assert here not in {result for _, result in found}


def _process(chunk: int) -> int:
    import os

    return os.getpid()
