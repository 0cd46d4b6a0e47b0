"""Mixtures: exact counts, every source read by its own format, every row's place kept, the report's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.sources import Mixture, SourceFields, as_mixture, mixture
from posttrain.data.loading import load_rows
from posttrain.data.mixing import largest_remainder, rows_per_epoch
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import ConfigError, DataError

TALK = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am Qwen."}]}


def test_counts_are_the_largest_remainders_by_hand() -> None:
    assert largest_remainder(10, [0.7, 0.3]) == [7, 3]
    assert largest_remainder(11, [0.7, 0.3]) == [8, 3]  # quotas 7.7 and 3.3
    assert largest_remainder(5, [1, 1, 1]) == [2, 2, 1]  # quotas 5/3: ties go to the first
    assert largest_remainder(100, [0.1, 0.2, 0.7]) == [10, 20, 70]  # exact, as 0.1 + 0.2 is not


def test_an_epoch_is_as_long_as_the_rule_says() -> None:
    # 20 rows are 30% of 66.7: of 66 the quotas are 46.2 and 19.8
    assert rows_per_epoch([100, 20], [0.7, 0.3], "first_exhausted") == [46, 20]
    # 100 rows are 70% of 142.9: of 143 the quotas are 100.1 and 42.9
    assert rows_per_epoch([100, 20], [0.7, 0.3], "all_exhausted") == [100, 43]
    assert rows_per_epoch([50, 50], [1, 1], "first_exhausted") == [50, 50]
    with pytest.raises(DataError, match=r"1, 0 of each .* all_exhausted"):
        rows_per_epoch([1, 100], [0.99, 0.01], "first_exhausted")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Ten rows of text and four conversations."""
    text, talks = tmp_path / "text.jsonl", tmp_path / "talks.jsonl"
    text.write_text("".join(json.dumps({"text": f"number {i}"}) + "\n" for i in range(10)))
    talks.write_text((json.dumps(TALK) + "\n") * 4)
    return [str(text), str(talks)]


def test_each_source_is_read_by_its_own_format_and_the_report_counts_it(files: Any, chat_tokenizer: Any) -> None:
    made = sft_trees(mixture(files, [0.5, 0.5]), chat_tokenizer, max_length=64)
    assert len(made.trees) == 14
    assert len(made) == 8  # four of each
    assert [(s.begin, s.end, s.per_epoch) for s in made.shares] == [(0, 10, 4), (10, 14, 4)]
    report = made.report
    assert report.format == "text + messages"
    assert [(s["source"], s["format"], s["rows_read"], s["per_epoch"], s["share"]) for s in report.sources] == [
        (files[0], "text", 10, 4, 0.5), (files[1], "messages", 4, 4, 0.5)
    ]  # fmt: skip
    assert report.rows_read == report.rows_kept == 14
    assert report.tokens == sum(tree.size for tree in made.trees)
    assert f"4 of 10 from {files[0]} (50.0%)" in report.text()
    assert json.loads(json.dumps(report.as_dict()))["sources"][1]["sequences"] == 4


def test_files_without_weights_are_all_read(files: Any, chat_tokenizer: Any) -> None:
    made = sft_trees(files, chat_tokenizer, max_length=64)
    assert len(made) == len(made.trees) == 14
    assert made.rows == list(range(14))


def test_a_row_that_is_dropped_or_broken_names_its_file(files: Any, chat_tokenizer: Any, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps(TALK) + "\n" + json.dumps({"messages": TALK["messages"][:1]}) + "\n")
    report = sft_trees([files[0], str(short)], chat_tokenizer, max_length=64).report
    (dropped,) = report.dropped.values()
    assert dropped.first == (f"{short}:2",)
    short.write_text(json.dumps(TALK) + "\n" + json.dumps({"messages": [{"role": "usr", "content": "x"}]}) + "\n")
    with pytest.raises(DataError, match=r"short.jsonl:2: .*usr"):
        sft_trees([files[0], str(short)], chat_tokenizer, max_length=64)


def test_rows_in_memory_are_named_by_their_place_among_the_sources(chat_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"row 1 of train_dataset\[1\]: 'text' is missing"):
        sft_trees(mixture([[{"text": "a"}], [{"text": "b"}, {"txt": "c"}]]), chat_tokenizer, max_length=64)


def test_pairs_are_mixed_too(chat_tokenizer: Any) -> None:
    plain = [{"prompt": f"q{i}", "chosen": " yes", "rejected": " no"} for i in range(6)]
    chats = [{"chosen": TALK["messages"], "rejected": [TALK["messages"][0], {"role": "assistant", "content": "No."}]}]
    made = preference_trees(mixture([plain, chats], [2, 1], stop="all_exhausted"), chat_tokenizer, max_length=64)
    assert [share.per_epoch for share in made.shares] == [6, 3]
    assert made.report.format == "preference + preference, implicit prompt"


def test_readers_of_rows_get_the_first_epoch(files: Any) -> None:
    rows = load_rows(mixture([files[0], files[1]], [1, 3], stop="all_exhausted"))
    assert [("text" in row) for row in rows] == [True] * 10 + [False] * 30
    assert rows.where(9) == f"{files[0]}:10"
    assert rows.where(10 + 5) == f"{files[1]}:2"  # its fourth row was followed by its first


def test_weights_stand_before_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_mixture(["0.7:a.jsonl", ".3:org/name:config"]) == Mixture(
        sources=(SourceFields(path="a.jsonl", weight=0.7), SourceFields(path="org/name:config", weight=0.3)),
        weights=(0.7, 0.3),
    )
    assert as_mixture([{"text": "a row"}]) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2:a.jsonl").touch()
    assert SourceFields.parse("2:a.jsonl").path == "2:a.jsonl"  # a file is called that


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture([], []), "must be a list of datasets"),
        (lambda: mixture("a.jsonl"), "must be a list of datasets"),
        (lambda: mixture(["a", "b"], [1]), "1 weights for 2 sources"),
        (lambda: mixture(["a", "b"], [1, -1]), "numbers above 0"),
        (lambda: mixture(["a", "b"], [1, 1], stop="never"), "one of first_exhausted, all_exhausted"),  # type: ignore[arg-type]
        (lambda: as_mixture(["0.5:a.jsonl", "b.jsonl"]), "'b.jsonl' has no weight, 'a.jsonl' has"),
    ],
)
def test_a_mixture_that_cannot_be_is_explained(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_reward_model_learns_from_a_mixture_of_pairs(chat_tokenizer: Any) -> None:
    from posttrain.trainers.reward import scored_pairs

    plain = [{"prompt": f"q{i}", "chosen": " yes", "rejected": " no", "margin": 2.0} for i in range(4)]
    chats = [{"chosen": TALK["messages"], "rejected": [TALK["messages"][0], {"role": "assistant", "content": "No."}]}]
    made = scored_pairs(mixture([plain, chats], [3, 1], stop="all_exhausted"), chat_tokenizer, 64)
    assert [(share.per_epoch, share.end - share.begin) for share in made.shares] == [(5, 4), (1, 1)]
