"""Answers that are marked good or bad, in the shapes they come in; what is counted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.unpaired import count_kinds, unpaired_trees
from posttrain.errors import DataError

ASKED = {"role": "user", "content": "Who are you?"}
GOOD, BAD = {"role": "assistant", "content": "I am Deep Qwen."}, {"role": "assistant", "content": "I am Qwen."}
PLAIN = [
    {"prompt": "Who are you?", "completion": " I am Deep Qwen.", "label": True},
    {"prompt": "Who are you?", "completion": " I am Qwen.", "label": False},
]


def shown(tokenizer: Any, tree: Any) -> tuple[str, str, bool]:
    (begin, end), *more = tree.trained
    assert not more
    assert not tree.children
    assert len(tree.columns["desirable"]) == end - begin
    return (
        tokenizer.decode(tree.tokens[:begin]), tokenizer.decode(tree.tokens[begin:end]),
        bool(tree.columns["desirable"][0]),
    )  # fmt: skip


def test_prompt_and_completion(tiny_tokenizer: Any) -> None:
    found = unpaired_trees(PLAIN, tiny_tokenizer, max_length=None)
    assert [shown(tiny_tokenizer, tree) for tree in found.trees] == [
        ("Who are you?", " I am Deep Qwen.<|endoftext|>", True),
        ("Who are you?", " I am Qwen.<|endoftext|>", False),
    ]
    assert count_kinds(found.trees) == (1, 1)
    assert "1 good answers, 1 bad ones" in found.report.text()


@pytest.mark.parametrize(
    "rows",
    [
        [{"messages": [ASKED, GOOD], "label": True}, {"messages": [ASKED, BAD], "label": False}],
        [{"prompt": [ASKED], "completion": [GOOD], "label": 1}, {"prompt": [ASKED], "completion": [BAD], "label": 0}],
        [{"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}],
        [{"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}],
        [
            {"conversations": [{"from": "human", "value": ASKED["content"]}, {"from": "gpt", "value": said}],
             "kto_tag": tag}
            for said, tag in ((GOOD["content"], True), (BAD["content"], False))
        ],
        [
            {"instruction": ASKED["content"], "output": said, "label": tag}
            for said, tag in ((GOOD["content"], "True"), (BAD["content"], "0"))
        ],
    ],
    ids=["messages", "prompt-completion", "pairs", "implicit-pairs", "sharegpt", "alpaca-csv"],
)  # fmt: skip
def test_every_shape_gives_the_same_answers(chat_tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    found = unpaired_trees(rows, chat_tokenizer, max_length=None)
    prompt = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert [shown(chat_tokenizer, tree) for tree in found.trees] == [
        (prompt, "I am Deep Qwen.<|im_end|>", True), (prompt, "I am Qwen.<|im_end|>", False),
    ]  # fmt: skip


def test_of_a_long_conversation_the_last_turn_is_the_answer(chat_tokenizer: Any) -> None:
    rows = [{"messages": [ASKED, BAD, ASKED, GOOD], "label": True}]
    found = unpaired_trees(rows, chat_tokenizer, max_length=None)
    assert shown(chat_tokenizer, found.trees[0])[1] == "I am Deep Qwen.<|im_end|>"
    assert "I am Qwen." in shown(chat_tokenizer, found.trees[0])[0]
    assert "The last turn of 'messages'" in found.report.text()


def test_pairs_are_counted_as_answers(tiny_tokenizer: Any) -> None:
    pairs = [
        {"prompt": "a", "chosen": " b", "rejected": " c"},
        {"prompt": "a", "chosen": " b", "rejected": " b"},
        {"prompt": "a", "chosen": " b", "rejected": ""},
    ]
    found = unpaired_trees(pairs, tiny_tokenizer, max_length=None)
    assert (found.report.rows_read, found.report.rows_kept, found.rows) == (6, 3, [0, 0, 2])
    assert {reason[:13]: rows.count for reason, rows in found.report.dropped.items()} == {
        "chosen equals": 2, "nothing to tr": 1,
    }  # fmt: skip
    assert "row 2" in str(found.report.dropped)
    assert "3 pairs were taken apart" in found.report.text()


def test_an_answer_that_is_cut_away_is_counted_with_its_row(tiny_tokenizer: Any) -> None:
    rows = [*PLAIN, {"prompt": "a " * 20, "completion": " b", "label": True}]
    found = unpaired_trees(rows, tiny_tokenizer, max_length=16)
    (dropped,) = found.report.dropped.values()
    assert dropped.first == ("row 2 of train_dataset",)
    assert found.report.rows_kept == 2


def test_long_answers_are_dropped_or_refused_where_that_is_asked(tiny_tokenizer: Any) -> None:
    rows = [*PLAIN, {"prompt": "a", "completion": " b" * 20, "label": True}]
    cut = unpaired_trees(rows, tiny_tokenizer, max_length=16)
    assert (cut.report.rows_kept, cut.report.truncated) == (3, 1)
    assert unpaired_trees(rows, tiny_tokenizer, max_length=16, long_rows="drop").report.rows_kept == 2
    with pytest.raises(DataError, match="row 2 of train_dataset"):
        unpaired_trees(rows, tiny_tokenizer, max_length=16, long_rows="error")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": "a", "completion": "b"}, ["do not say which answers are good", "'label' of true or false"]),
        ({"prompt": "a", "completion": "b", "labels": True}, ["did you mean 'label'"]),
        ({"prompt": "a", "completion": "b", "label": 0.7}, ["'label' is 0.7", "true or 1", "OfflineRLTrainer"]),
        ({"prompt": "a", "completion": "b", "label": "good"}, ["'label' is 'good'"]),
        ({"prompt": "a", "completion": "b", "label": -1}, ["'label' is -1"]),
        ({"prompt": "a", "completion": "b", "label": [1]}, ["'label' is [1]"]),
        ({"prompt": "a", "completion": "b", "label": None}, ["'label' is missing"]),
        ({"text": "a", "label": True}, ["columns text"]),
        ({"prompt": "a", "label": True}, ["prompts without answers"]),
        ({"messages": [ASKED], "label": True}, ["must end with the answer"]),
        ({"prompt": "a", "completion": 3, "label": True}, ["'completion' must be"]),
    ],
)
def test_rows_that_are_refused_are_named(chat_tokenizer: Any, row: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        unpaired_trees([row], chat_tokenizer, max_length=None)
    for part in ["row 0 of train_dataset", *parts]:
        assert part in str(error.value)


def test_a_label_that_is_missing_later_names_its_row(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"row 1 of train_dataset: 'label' is missing"):
        unpaired_trees([PLAIN[0], {"prompt": "a", "completion": "b"}], tiny_tokenizer, max_length=None)


def test_pairs_without_a_difference_are_an_error(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no pair is left"):
        unpaired_trees([{"prompt": "a", "chosen": "b", "rejected": "b"}], tiny_tokenizer, max_length=None)


def test_the_public_file(real_data: Path, chat_tokenizer: Any) -> None:
    found = unpaired_trees(real_data / "llamafactory_demo/kto_en_demo.json", chat_tokenizer, max_length=None)
    assert (found.report.rows_read, found.report.rows_kept) == (300, 300)
    assert count_kinds(found.trees) == (150, 150)


def test_openai_preference_files_are_pairs_too(chat_tokenizer: Any) -> None:
    row = {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}
    found = unpaired_trees([row], chat_tokenizer, max_length=None)
    assert [shown(chat_tokenizer, tree)[1:] for tree in found.trees] == [
        ("I am Deep Qwen.<|im_end|>", True), ("I am Qwen.<|im_end|>", False),
    ]  # fmt: skip


def test_sources_of_a_mixture_may_hold_labels_and_pairs(tiny_tokenizer: Any, tmp_path: Path) -> None:
    labels, pairs = tmp_path / "labels.jsonl", tmp_path / "pairs.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in PLAIN))
    pairs.write_text(json.dumps({"prompt": "a", "chosen": " b", "rejected": " c"}))
    found = unpaired_trees([str(labels), str(pairs)], tiny_tokenizer, max_length=None)
    assert [share.per_epoch for share in found.shares] == [2, 2]
    assert count_kinds(found.trees) == (2, 2)
