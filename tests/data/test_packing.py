"""Packs of rows: which rows share one, what is cut, and what the start says of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from posttrain.algorithms.sft import sft_batch
from posttrain.config.sources import Mixture
from posttrain.data.packing import best_fit_decreasing, pack, padding_note, shuffled
from posttrain.data.trees import sft_trees
from posttrain.errors import ConfigError, DataError
from posttrain.types import Segment


def rows(*lengths: int, start: int = 5) -> list[dict[str, Any]]:
    """Ready rows of so many tokens, all different, of which the second half is trained."""
    made, token = [], start
    for length in lengths:
        ids = list(range(token, token + length))
        made.append({"input_ids": ids, "completion_mask": [0] * (length // 2) + [1] * (length - length // 2)})
        token += length
    return made


def packed(tokenizer: Any, strategy: str, *lengths: int, size: int = 8) -> Any:
    limit = size if strategy == "bfd" else None
    return pack(sft_trees(rows(*lengths), tokenizer, max_length=limit), max_length=size, strategy=strategy)


def contents(found: Any) -> list[list[tuple[int, list[tuple[int, int]]]]]:
    """Of each pack, the first token and the spans of each row."""
    return [[(row.tokens[0], list(row.trained)) for row in tree.children] for tree in found.trees]


def test_the_longest_row_goes_where_the_least_room_remains() -> None:
    assert best_fit_decreasing([3, 7, 5, 1, 2, 4], 8) == [[1, 3], [2, 0], [5, 4]]
    assert best_fit_decreasing([4, 4, 4, 4], 8) == [[0, 1], [2, 3]]
    assert best_fit_decreasing([2, 6, 6, 2], 8) == [[1, 0], [2, 3]]  # of equally full packs the older
    assert best_fit_decreasing([], 8) == []


def test_it_is_trl_s_packing() -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed; it comes with the test extra")
    from datasets import Dataset

    rng = random.Random(0)
    lengths = [rng.randint(1, 40) for _ in range(200)]
    ids = [[number] * length for number, length in enumerate(lengths)]
    theirs = trl.pack_dataset(Dataset.from_dict({"input_ids": ids}), 40, "bfd")["input_ids"]
    ours = best_fit_decreasing(lengths, 40)
    assert [list(dict.fromkeys(pack)) for pack in theirs] == ours


def test_a_pack_is_a_tree_of_rows_and_keeps_what_they_train(tiny_tokenizer: Any) -> None:
    found = packed(tiny_tokenizer, "bfd", 3, 7, 5, 12)
    # the last row is cut to 8 tokens, of which 6 and 7 are trained
    assert contents(found) == [[(20, [(6, 8)])], [(8, [(3, 7)])], [(15, [(2, 5)]), (5, [(1, 3)])]]
    assert found.rows == [3, 1, 2]
    assert len(found) == 3
    assert found.report.tokens == 23
    assert "4 rows in 3 packs of at most 8 tokens, 96% full" in found.report.text()
    batch = sft_batch(found.trees[1:])
    assert batch.forest.parents == (-1, -1, -1)  # each row sees only itself
    assert batch.units == {"sft": 4.0 + 3.0 + 2.0}


def test_long_rows_are_split_and_lose_nothing_but_the_first_token_of_a_piece(tiny_tokenizer: Any) -> None:
    found = packed(tiny_tokenizer, "bfd_split", 20, 3)
    # 20 tokens from 5, trained from 10 on: pieces of 8, 8 and 4 tokens, the first without a trained token
    assert contents(found) == [[(13, [(2, 8)])], [(21, [(1, 4)]), (25, [(1, 3)])]]
    assert found.rows == [0, 0]
    assert found.report.lengths["longest"] == 8


def test_blocks_run_across_rows(tiny_tokenizer: Any) -> None:
    found = packed(tiny_tokenizer, "wrapped", 6, 6, 6)
    assert contents(found) == [[(5, [(3, 6)])], [(13, [(1, 4), (7, 8)])], [(21, [(1, 2)])]]
    assert [list(tree.children[0].tokens) for tree in found.trees] == [[*range(5, 11)], [*range(13, 21)], [21, 22]]
    assert "a row sees the rows before it" in found.report.text()


def test_weights_of_turns_survive_the_split(chat_tokenizer: Any) -> None:
    from chats import assistant, user

    talk = [user("a"), assistant("b c d e f g", weight=0.5), user("h"), assistant("i")]
    whole = sft_trees([{"messages": talk}], chat_tokenizer, max_length=None)
    halves = [leaf for tree in pack(whole, max_length=12, strategy="bfd_split").trees for leaf in tree.leaves()]
    counted = [weight for leaf in halves for weight in leaf.columns.get("weight", [1.0] * 99)]
    assert 0.5 in counted
    (tree,) = whole.trees
    lost = sum(1 for begin, end in tree.trained for i in range(begin, end) if i % 12 == 0)
    assert sum(e - b for leaf in halves for b, e in leaf.trained) == len(tree.columns["weight"]) - lost


def test_a_tree_of_several_turns_is_packed_whole_and_never_split(tiny_tokenizer: Any) -> None:
    tree = Segment(tokens=[5, 6], children=[Segment(tokens=[7] * n, trained=[(0, n)]) for n in (3, 4)])
    found = sft_trees(rows(3), tiny_tokenizer, max_length=None)
    found.trees.append(tree)
    found.rows.append(1)
    whole = pack(found, max_length=12, strategy="bfd")
    assert [child.size for child in whole.trees[0].children] == [9, 3]
    with pytest.raises(DataError, match="contexts of their own"):
        pack(found, max_length=5, strategy="bfd_split")


def test_the_padding_saved_worked_by_hand(tiny_tokenizer: Any) -> None:
    found = sft_trees(rows(3, 7, 5, 4), tiny_tokenizer, max_length=None)
    # padded: 2 x 7 + 2 x 5 = 24 for 19 tokens
    assert "batches of 2 rows" in padding_note(found, 2)
    assert "5 tokens more (21% of 24)" in padding_note(found, 2)
    assert "0 tokens more (0% of 19)" in padding_note(found, 1)


def test_shuffled_once_by_the_seed(tiny_tokenizer: Any) -> None:
    found = sft_trees(rows(3, 4, 5, 6, 7), tiny_tokenizer, max_length=None)
    once, again, other = shuffled(found, 1), shuffled(found, 1), shuffled(found, 2)
    assert once == again != other
    assert sorted(once.rows) == found.rows != once.rows
    assert [once.trees[i] for i in sorted(range(5), key=once.rows.__getitem__)] == found.trees


def test_a_mixture_with_weights_is_not_packed(tiny_tokenizer: Any) -> None:
    mixed = Mixture(sources=(rows(3, 4), rows(5)), weights=(0.5, 0.5))
    found = sft_trees(mixed, tiny_tokenizer, max_length=None)
    with pytest.raises(ConfigError, match="leave the weights or packing out"):
        pack(found, max_length=12, strategy="bfd")
    both = sft_trees(Mixture(sources=mixed.sources), tiny_tokenizer, max_length=None)
    assert both.shares
    joined = pack(both, max_length=12, strategy="bfd")
    assert (len(joined), joined.shares) == (1, ())
