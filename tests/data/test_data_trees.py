"""Trees, and the report of what was cut and dropped on the way to them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from chats import assistant, trained, user

from posttrain.data.display import display_dataset
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import ConfigError, DataError
from posttrain.types import TokenForest

TALK = [user("who?"), assistant("Qwen.")]
PAIR = {"prompt": [user("who?")], "chosen": [assistant("Deep Qwen.")], "rejected": [assistant("Qwen.")]}


def spans(found: Any) -> list[Any]:
    return [list(tree.trained) for tree in found.trees]


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ({"text": "What is"}, {}, "Wh[[at is<|endoftext|>]]"),
        ({"prompt": "What is", "completion": " one"}, {}, "[[ one<|endoftext|>]]"),
        ({"prompt": "What is", "completion": " one"}, {"completion_only_loss": False}, "Wh[[at is one<|endoftext|>]]"),
        ({"messages": TALK}, {"assistant_only_loss": True}, "assistant\n[[Qwen.<|im_end|>]]"),
        (
            {"messages": TALK},
            {"assistant_only_loss": False},
            "<|im_start|>[[user\nwho?<|im_end|>\n<|im_start|>assistant\nQwen.<|im_end|>\n]]",
        ),
        (
            {"prompt": TALK[:1], "completion": TALK[1:]},
            {"assistant_only_loss": False},
            "assistant\n[[Qwen.<|im_end|>\n]]",
        ),
        (
            {"prompt": [*TALK, user("and?")], "completion": [assistant("so.")]},
            {},
            "assistant\nQwen.<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n[[so.<|im_end|>]]",
        ),
        (
            {"prompt": [*TALK, user("and?")], "completion": [assistant("so.")]},
            {"completion_only_loss": False, "assistant_only_loss": True},
            "assistant\n[[Qwen.<|im_end|>]]\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n[[so.<|im_end|>]]",
        ),
        (
            {"prompt": TALK[:1], "completion": TALK[1:]},
            {"completion_only_loss": False},
            "<|im_start|>[[user\nwho?<|im_end|>\n<|im_start|>assistant\nQwen.<|im_end|>\n]]",
        ),
    ],
)
def test_what_each_option_trains(chat_tokenizer: Any, row: Any, options: Any, expected: str) -> None:
    report = sft_trees([row], chat_tokenizer, max_length=None, **options).report
    assert report.render_marked(color=False).endswith(expected)


def test_a_pair_is_a_prompt_with_two_leaves_chosen_first(chat_tokenizer: Any) -> None:
    (tree,) = preference_trees([PAIR], chat_tokenizer, max_length=None).trees
    assert len(tree.children) == 2
    assert not tree.trained
    assert trained(chat_tokenizer, tree) == [["Deep Qwen.<|im_end|>"], ["Qwen.<|im_end|>"]]
    forest = TokenForest.from_trees([tree])
    assert forest.predictors[0] == forest.predictors[forest.trained[0]] == len(tree.tokens) - 1


def test_the_whole_completion_as_in_trl(chat_tokenizer: Any) -> None:
    (tree,) = preference_trees([PAIR], chat_tokenizer, max_length=None, train_after_stop=True).trees
    assert trained(chat_tokenizer, tree) == [["Deep Qwen.<|im_end|>\n"], ["Qwen.<|im_end|>\n"]]


def test_rows_are_cut_counted_and_dropped(tiny_tokenizer: Any) -> None:
    rows = [
        {"prompt": "1 2 3", "completion": " 4 5 6"},
        {"prompt": "1 2 3 4 5 6 7 8", "completion": " 9"},
        {"prompt": "1", "completion": " 2"},
        {"prompt": "1", "completion": "  "},
    ]
    lengths = [len(tiny_tokenizer(r["prompt"] + r["completion"])["input_ids"]) + 1 for r in rows]
    limit = lengths[0] - 1
    found = sft_trees(rows, tiny_tokenizer, max_length=limit)
    assert found.rows == [0, 2]
    assert [len(tree.tokens) for tree in found.trees] == [limit, lengths[2]]
    report = found.report
    assert (report.rows_read, report.rows_kept, report.truncated) == (4, 2, 1)
    assert {reason: (d.count, d.first) for reason, d in report.dropped.items()} == {
        "no trained token within max_length": (1, ("row 1 of train_dataset",)),
        "nothing to train on (empty completion or no assistant turn)": (1, ("row 3 of train_dataset",)),
    }
    assert report.tokens == limit + lengths[2]
    assert report.trained_tokens == sum(e - b for tree in found.trees for b, e in tree.trained)
    for part in ("4 rows read, 2 kept", "1 rows are longer than max_length", "row 1"):
        assert part in report.text()
    assert json.loads(json.dumps(report.as_dict()))["rows_kept"] == 2


def test_keep_end_keeps_the_end(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "1 2 3 4 5 6 7 8", "completion": " 9"}, {"text": "1 2 3 4 5 6 7 8"}]
    for row in rows:
        (tree,) = sft_trees([row], tiny_tokenizer, max_length=4, truncation_mode="keep_end").trees
        whole = sft_trees([row], tiny_tokenizer, max_length=None).trees[0]
        assert list(tree.tokens) == list(whole.tokens)[-4:]
        assert list(tree.trained) == [(max(whole.trained[0][0] - len(whole.tokens) + 4, 1), 4)]


def test_multi_turn_rows_lose_the_turns_that_are_cut(chat_tokenizer: Any) -> None:
    talk = [*TALK, user("and?"), assistant("so.")]
    whole = sft_trees([{"messages": talk}], chat_tokenizer, max_length=None).trees[0]
    first, second = whole.trained
    cut = sft_trees([{"messages": talk}], chat_tokenizer, max_length=second[0]).trees[0]
    assert list(cut.trained) == [first]
    assert len(cut.tokens) == first[1]  # what nothing trained depends on is not computed
    cut = sft_trees([{"messages": talk}], chat_tokenizer, max_length=second[0] + 1).trees[0]
    assert list(cut.trained) == [first, (second[0], second[0] + 1)]


def test_pairs_are_cut_alike(tiny_tokenizer: Any) -> None:
    row = {"prompt": "1 2 3 4 5 6 7 8", "chosen": " 9 9 9", "rejected": " 7"}
    whole = preference_trees([row], tiny_tokenizer, max_length=None).trees[0]
    chosen, rejected = (len(leaf.tokens) for leaf in whole.children)
    root = len(whole.tokens)
    cut = preference_trees([row], tiny_tokenizer, max_length=root + 1).trees[0]
    assert [len(leaf.tokens) for leaf in cut.children] == [1, 1]
    end = preference_trees([row], tiny_tokenizer, max_length=chosen + 2, truncation_mode="keep_end").trees[0]
    assert list(end.tokens) == list(whole.tokens)[-2:]
    assert [len(leaf.tokens) for leaf in end.children] == [chosen, rejected]


def test_pairs_that_cannot_be_trained_are_dropped_and_counted(tiny_tokenizer: Any) -> None:
    rows = [
        {"prompt": "1", "chosen": " 2", "rejected": " 3"},
        {"prompt": "1", "chosen": " 2", "rejected": " 2"},
        {"prompt": "1", "chosen": " 2", "rejected": ""},
        {"prompt": "", "chosen": "2", "rejected": "3"},
        {"prompt": "1 2 3 4 5 6 7 8 9 " * 3, "chosen": " 2", "rejected": " 3"},
        {"prompt": "1", "chosen": " 2" * 20, "rejected": " 2" * 20 + " 3"},
    ]
    found = preference_trees(rows, tiny_tokenizer, max_length=12)
    assert found.rows == [0]
    assert {reason: d.first for reason, d in found.report.dropped.items()} == {
        "chosen equals rejected": ("row 1 of train_dataset",),
        "nothing to train on (empty completion or no assistant turn)": ("row 2 of train_dataset",),
        "chosen and rejected share no prompt": ("row 3 of train_dataset",),
        "no trained token within max_length": ("row 4 of train_dataset",),
        "chosen equals rejected within max_length": ("row 5 of train_dataset",),
    }
    rows = [rows[0], {"prompt": "1", "chosen": " 2" * 20, "rejected": " 3"}]
    found = preference_trees(rows, tiny_tokenizer, max_length=12, truncation_mode="keep_end")
    assert list(found.report.dropped) == ["chosen or rejected alone is longer than max_length"]


def test_nothing_left_is_an_error(tiny_tokenizer: Any, chat_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"no row is left.*2 nothing to train on.*row 0 of.*row 1 of.*max_length"):
        sft_trees([{"text": ""}, {"text": " "}], tiny_tokenizer, max_length=None)
    with pytest.raises(DataError, match=r"no row is left.*1 chosen equals rejected.*two different answers"):
        preference_trees([{"prompt": "1", "chosen": "2", "rejected": "2"}], tiny_tokenizer, max_length=9)
    with pytest.raises(DataError, match="no assistant turn"):
        sft_trees([{"messages": [user("who?")]}, {"messages": []}], chat_tokenizer, max_length=None)


def test_options_are_checked(tiny_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="max_length=1: must be at least 2"):
        sft_trees([{"text": "a"}], tiny_tokenizer, max_length=1)
    with pytest.raises(ConfigError, match="truncation_mode='left': must be 'keep_start' or 'keep_end'"):
        preference_trees([PAIR], tiny_tokenizer, max_length=9, truncation_mode="left")  # type: ignore[arg-type]


def test_chunks_change_nothing(chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"messages": [user(str(i)), assistant("x" * i), user("y"), assistant(str(i))]} for i in range(1, 12)]
    whole = sft_trees(rows, chat_tokenizer, max_length=None)
    monkeypatch.setattr("posttrain.data.trees.CHUNK", 3)
    assert sft_trees(rows, chat_tokenizer, max_length=None) == whole
    assert len(whole) == 11


def test_the_report_tells_what_a_person_asks(chat_tokenizer: Any) -> None:
    row = {"question": "who?", "answer": "Qwen.", "id": 7}
    report = sft_trees([row], chat_tokenizer, max_length=None).report
    text = report.text(color=False)
    assert "'question' is read as a user's message" in text
    assert "Columns not used: id." in text
    assert "[[Qwen.<|im_end|>]]" in text
    assert "\033[32mQwen.<|im_end|>\033[0m" in report.render_marked(color=True)
    assert dataclasses.asdict(report)["lengths"]["longest"] == report.tokens


def test_display(capsys: pytest.CaptureFixture[str]) -> None:
    display_dataset([{"messages": TALK}] * 5, n=2)
    display_dataset([{"prompt": "a?", "chosen": "good", "rejected": "bad"}])
    display_dataset([{"text": "plain"}])
    shown = capsys.readouterr().out
    assert shown.count("User Prompt: who?\nAssistant Response: Qwen.") == 2
    assert "User Prompt: a?\nChosen: good\nRejected: bad" in shown
    assert "Text: plain" in shown


@pytest.mark.parametrize(
    ("file", "make", "read", "kept"),
    [
        ("gsm8k/test.jsonl", sft_trees, 1319, 1319),
        ("llamafactory_demo/alpaca_en_demo.json", sft_trees, 999, 999),
        ("llamafactory_demo/identity.json", sft_trees, 91, 91),
        ("llamafactory_demo/glaive_toolcall_en_demo.json", sft_trees, 300, 300),
        ("llamafactory_demo/reason_tool_use_demo_50.jsonl", sft_trees, 50, 50),
        ("llamafactory_demo/dpo_en_demo.json", preference_trees, 300, 300),
    ],
)
def test_public_files(real_data: Path, chat_tokenizer: Any, file: str, make: Any, read: int, kept: int) -> None:
    found = make(real_data / file, chat_tokenizer, max_length=None)
    assert (found.report.rows_read, found.report.rows_kept) == (read, kept)
    assert not found.report.dropped
    assert math.isclose(sum(tree.size for tree in found.trees), found.report.tokens)
    TokenForest.from_trees(found.trees[:50])


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("llamafactory_demo/kto_en_demo.json", "marked good or bad"),
        ("llamafactory_demo/dpo_en_demo.json", "preference rows"),
        ("ifeval/input_data.jsonl", "prompts without answers"),
    ],
)
def test_public_files_that_are_not_for_sft(real_data: Path, chat_tokenizer: Any, file: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        sft_trees(real_data / file, chat_tokenizer, max_length=None)
