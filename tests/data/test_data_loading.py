"""Every kind of dataset becomes rows, and every broken one an error that names the place and the remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from posttrain.data.loading import load_rows
from posttrain.errors import DataError

ROWS = [{"text": "one"}, {"text": "two, 三"}]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


LINES = "\n".join(json.dumps(row) for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", LINES.replace("\n", "\r\n\r\n") + "\n"),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),  # a byte-order mark
        ("a.json", json.dumps(ROWS, indent=1, ensure_ascii=False)),
        ("a.json", LINES),  # lines under an array's name
        ("a.jsonl", json.dumps(ROWS)),  # an array under the lines' name
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.csv", 'text\none\n"two, 三"\n'),
        ("a.tsv", "text\none\ntwo, 三\n"),
        ("a.tsv.gz", gzip.compress("text\none\ntwo, 三\n".encode(), mtime=0)),
    ],
)
def test_every_file_gives_the_same_rows(write: Any, name: str, content: str | bytes) -> None:
    assert list(load_rows(write(name, content))) == ROWS


def test_every_object_gives_the_same_rows(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    sources = [
        ROWS, tuple(ROWS), iter(ROWS), dataset, dataset.to_iterable_dataset(), dataset.with_format("numpy"),
        str(tmp_path / "a.parquet"), tmp_path / "saved", load_rows(ROWS),
        next((tmp_path / "saved").glob("*.arrow")), {"path": str(tmp_path / "a.parquet")},
    ]  # fmt: skip
    for source in sources:
        assert list(load_rows(source)) == ROWS


def test_a_transform_is_honoured() -> None:
    dataset = datasets.Dataset.from_list([{"x": "one"}])
    dataset.set_transform(lambda batch: {"text": [x.upper() for x in batch["x"]]})
    assert list(load_rows(dataset)) == [{"text": "ONE"}]


def test_rows_know_their_place(write: Any) -> None:
    assert load_rows(write("a.jsonl", '{"a": 1}\n\n{"a": 2}\n')).where(1).endswith("a.jsonl:3")
    assert load_rows(write("a.json", '[{"a": 1}]')).where(0).endswith("a.json")
    assert load_rows(ROWS, name="eval_dataset").where(1) == "row 1 of eval_dataset"
    # a field may run over several lines: a row is where it begins
    assert load_rows(write("a.csv", 'a,b\n"x\ny",1\nz,2\n')).where(1).endswith("a.csv:4")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 1,}\n', ["a.jsonl:2", "not valid JSON", "json.dumps"]),
        ("a.jsonl", "{'a': 1}\n", ["a.jsonl:1", "double quotes"]),
        ("a.jsonl", '{"a": 1}\n{"a": "unfin', ["a.jsonl:2", "cut off"]),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', ["a.jsonl:1", "one object"]),
        ("a.jsonl", '{"a": 1}\n[1, 2]\n', ["a.jsonl:2", "dict of columns", "list"]),
        ("a.jsonl", '"only text"\n', ["a.jsonl:1", '{"text": ...}']),
        ("a.json", '{\n "train": [{"a": 1}]\n}', ["a.json", "one JSON object", "array of objects"]),
        ("a.json", '[{"a": 1},\n{"a" 2}]', ["a.json:2", "not valid JSON"]),
        ("a.jsonl", "", ["a.jsonl", "no rows"]),
        ("a.jsonl", "\n\n", ["a.jsonl", "no rows"]),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', ["a.jsonl", "line 2", "UTF-8"]),
        ("a.jsonl.gz", b"not gzip", ["a.jsonl.gz", "gzip"]),
        ("a.csv", "a,b\n1,2\n3\n", ["a.csv:3", "fewer fields", "a, b"]),
        ("a.csv", "a,b\n1,2,3\n", ["a.csv:2", "more fields"]),
        ("a.parquet", b"not parquet", ["a.parquet", "parquet"]),
        ("a.arrow", b"not arrow", ["a.arrow", "not a whole Arrow file"]),
        ("a.txt", "hello", ["'.txt'", ".jsonl", '{"text": ...}']),
    ],
)
def test_a_broken_file_is_explained(write: Any, name: str, content: str | bytes, parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load_rows(write(name, content))
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (None, ["train_dataset", "NoneType", "list of dicts"]),
        (3, ["int"]),
        ([], ["no rows"]),
        (["text"], ["row 0 of train_dataset", "dict of columns", '{"text": ...}']),
        ([{"a": 1}, None], ["row 1 of train_dataset", "NoneType"]),
        ({"text": ["a"]}, ["dict with keys text", "Dataset.from_dict"]),
        (datasets.Dataset.from_list([]), ["no rows"]),
        (
            datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
            ["DatasetDict", "'train'", "train_dataset=dataset['train']"],
        ),
        ("someone/some-dataset", ["not in the local cache", "HF_HUB_OFFLINE", "load_dataset('someone/some-dataset')"]),
    ],
)
def test_a_wrong_object_is_explained(source: Any, parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load_rows(source)
    for part in parts:
        assert part in str(error.value)


def test_a_missing_file_names_its_neighbour(write: Any, tmp_path: Path) -> None:
    write("train.jsonl", LINES)
    with pytest.raises(DataError, match=r"no file .*trian.jsonl.*did you mean 'train.jsonl'"):
        load_rows(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"the directory .* does not exist"):
        load_rows(tmp_path / "absent" / "deep" / "train.jsonl")
