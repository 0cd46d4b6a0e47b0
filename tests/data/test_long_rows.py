"""Rows longer than max_length: cut, dropped, split so that every answer is trained once, or refused by their place."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.config.pairs import PairConfig
from posttrain.config.sft import SFTConfig
from posttrain.data.long_rows import exchanges, windows
from posttrain.data.rendering import Rendered
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import ConfigError, DataError


def trained_text(tree: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(list(leaf.tokens[b:e])) for leaf in tree.leaves() for b, e in leaf.trained]


def talk(turns: int) -> dict[str, Any]:
    said = [
        message
        for i in range(turns)
        for message in ({"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."})
    ]
    return {"messages": [{"role": "system", "content": "Be brief."}, *said]}


def test_windows_train_every_token_once() -> None:
    whole = Rendered(tokens=list(range(10)), trained=[(1, 4), (6, 10)])
    pieces = list(windows(whole, 4))
    assert [piece.tokens for piece in pieces] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert [piece.trained for piece in pieces] == [[(1, 4)], [(3, 4)], [(1, 4)]]
    assert [token for p in pieces for b, e in p.trained for token in p.tokens[b:e]] == [1, 2, 3, 6, 7, 8, 9]
    assert [p.tokens for p in windows(Rendered(tokens=[0, 1, 2, 3, 4], trained=[(4, 5)]), 3)] == [[2, 3, 4]]


def test_text_is_split_into_consecutive_pieces(chat_tokenizer: Any) -> None:
    rows = [{"text": "short"}, {"text": "seven apples and nine pears make sixteen fruits, " * 5}]
    (_, whole) = sft_trees(rows, chat_tokenizer, max_length=None).trees
    made = sft_trees(rows, chat_tokenizer, max_length=20, long_rows="split")
    pieces = made.trees[1:]
    assert made.rows == [0] + [1] * len(pieces)
    assert all(len(piece.tokens) <= 20 for piece in pieces)
    assert [t for piece in pieces for b, e in piece.trained for t in piece.tokens[b:e]] == list(whole.tokens[1:])
    assert made.report.rows_kept == 2
    assert made.report.truncated == 0
    assert f"1 rows are longer than max_length and were split into {len(pieces)}." in made.report.notes


def test_a_conversation_is_split_between_exchanges_with_its_system_prompt(chat_tokenizer: Any) -> None:
    (whole,) = sft_trees([talk(5)], chat_tokenizer, max_length=None).trees
    two = sft_trees([talk(2)], chat_tokenizer, max_length=None).trees[0].size
    made = sft_trees([talk(5)], chat_tokenizer, max_length=two, long_rows="split")
    texts = [chat_tokenizer.decode(list(tree.tokens)) for tree in made.trees]
    assert len(texts) == 3  # two exchanges, two, and one
    assert all("Be brief." in text for text in texts)
    assert ["Question 2?" in text for text in texts] == [False, True, False]
    answers = [text for tree in made.trees for text in trained_text(tree, chat_tokenizer)]
    assert answers == trained_text(whole, chat_tokenizer)


def test_what_cannot_be_split_is_cut_and_counted(chat_tokenizer: Any) -> None:
    row = {"prompt": "one", "completion": " two three four five" * 10}
    made = sft_trees([row], chat_tokenizer, max_length=12, long_rows="split")
    assert (len(made.trees), made.trees[0].size, made.report.truncated) == (1, 12, 1)
    long_answer = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b " * 50}]}
    assert sft_trees([long_answer], chat_tokenizer, max_length=20, long_rows="split").report.truncated == 1


def test_a_question_in_several_messages_stays_together() -> None:
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "user", "assistant"]
    assert exchanges([{"role": role} for role in roles]) == [1, 5]


def test_long_rows_are_dropped_and_counted_or_refused(chat_tokenizer: Any) -> None:
    rows = [talk(1), talk(9)]
    limit = sft_trees([talk(2)], chat_tokenizer, max_length=None).trees[0].size
    made = sft_trees(rows, chat_tokenizer, max_length=limit, long_rows="drop")
    assert made.rows == [0]
    assert [(d.count, d.first) for d in made.report.dropped.values()] == [(1, ("row 1 of train_dataset",))]
    assert sft_trees(rows, chat_tokenizer, max_length=limit).report.truncated == 1  # as ever
    with pytest.raises(DataError, match=r"row 1 of train_dataset: has \d+ tokens, and max_length is \d+"):
        sft_trees(rows, chat_tokenizer, max_length=limit, long_rows="error")


def test_long_pairs_are_dropped_or_refused(chat_tokenizer: Any) -> None:
    pairs = [{"prompt": "a", "chosen": " b" * n, "rejected": " c"} for n in (2, 40)]
    assert preference_trees(pairs, chat_tokenizer, max_length=16).report.truncated == 1
    made = preference_trees(pairs, chat_tokenizer, max_length=16, long_rows="drop")
    assert (made.rows, made.report.truncated, len(made.report.dropped)) == ([0], 0, 1)
    with pytest.raises(DataError, match="row 1 of train_dataset: has"):
        preference_trees(pairs, chat_tokenizer, max_length=16, long_rows="error")


def test_a_policy_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_length, which is none"):
        SFTConfig(long_rows="drop", max_length=None)
    with pytest.raises(ConfigError, match="packing_strategy=wrapped, which cuts rows by itself"):
        SFTConfig(long_rows="split", packing=True, packing_strategy="wrapped")
    with pytest.raises(ConfigError, match="one of cut, drop, error"):
        PairConfig(long_rows="split")
