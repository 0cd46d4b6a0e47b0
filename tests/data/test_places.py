"""Several files, patterns, directories and named datasets become rows, each with its place; columns are renamed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from posttrain.data.loading import load_rows
from posttrain.errors import DataError


def write(path: Path, *texts: str, column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return path


def texts(rows: Any) -> list[str]:
    return [row["text"] for row in rows]


def test_a_pattern_is_its_files_in_order_and_rows_keep_their_lines(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", "three")
    write(tmp_path / "a.jsonl", "one", "two")
    write(tmp_path / "deep" / "c.jsonl", "four")
    rows = load_rows(str(tmp_path / "*.jsonl"))
    assert texts(rows) == ["one", "two", "three"]
    places = [rows.where(i).removeprefix(f"{tmp_path}/") for i in range(3)]
    assert places == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1"]
    assert texts(load_rows(str(tmp_path / "**" / "*.jsonl"))) == ["one", "two", "three", "four"]
    with pytest.raises(DataError, match=r"no file matches .*beside it: a.jsonl, b.jsonl"):
        load_rows(str(tmp_path / "*.csv"))


def test_a_list_of_paths_is_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [write(tmp_path / "b.jsonl", "one"), str(write(tmp_path / "a.jsonl", "two"))]
    rows = load_rows(paths)
    assert texts(rows) == ["one", "two"]
    assert rows.where(1) == f"{tmp_path}/a.jsonl:1"


def test_a_directory_is_its_files_or_those_of_a_split(tmp_path: Path) -> None:
    write(tmp_path / "all" / "a.jsonl", "one")
    write(tmp_path / "all" / "sub" / "b.json", "two")
    assert texts(load_rows(tmp_path / "all")) == ["one", "two"]

    write(tmp_path / "split" / "train-00000-of-00002.jsonl", "a")
    write(tmp_path / "split" / "train-00001-of-00002.jsonl", "b")
    write(tmp_path / "split" / "dev.jsonl", "c")
    write(tmp_path / "split" / "contest.jsonl", "not a test split")
    rows = load_rows(tmp_path / "split")
    assert texts(rows) == ["a", "b"]  # never the rows that are held out
    assert "not those of other, validation" in rows.notes[0]
    assert texts(load_rows({"path": str(tmp_path / "split"), "split": "validation"})) == ["c"]
    with pytest.raises(DataError, match=r"no split 'test', but 'train', 'validation'"):
        load_rows({"path": str(tmp_path / "split"), "split": "test"})
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="directory without data"):
        load_rows(tmp_path / "none")


def test_rows_can_be_limited_and_the_report_hears_of_it(tmp_path: Path) -> None:
    rows = load_rows({"path": str(write(tmp_path / "a.jsonl", "one", "two", "three")), "rows": 2})
    assert texts(rows) == ["one", "two"]
    assert "3 rows the first 2" in rows.notes[0]


def test_columns_are_renamed_and_reached_into(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": "1 + 1?", "prompt": "other", "instances": [{"output": "2"}], "id": 7}) + "\n")
    source = {"path": str(path), "columns": {"prompt": "q", "completion": "instances.0.output"}}
    assert list(load_rows(source)) == [{"instances": [{"output": "2"}], "id": 7, "prompt": "1 + 1?", "completion": "2"}]
    with pytest.raises(DataError, match=r"a.jsonl:1: there is no column 'qq' \(columns\); did you mean 'q'"):
        load_rows({"path": str(path), "columns": {"prompt": "qq"}})
    with pytest.raises(DataError, match=r"no column 'zzz' \(columns\)\. Its columns: q, "):
        load_rows({"path": str(path), "columns": {"prompt": "zzz"}})


def test_a_misspelt_field_of_a_source_leads_back(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="unknown field 'wieght'; did you mean 'weight'"):
        load_rows([{"path": str(write(tmp_path / "a.jsonl", "one")), "wieght": 1}])


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which `org/talks`, with two configurations, lies as a download leaves it; there is no network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    for config, text in (("default", "one"), ("long", "a longer one")):
        made = tmp_path / "made" / config
        dataset = datasets.load_dataset(
            "json", data_files={"train": [str(write(tmp_path / f"{config}.jsonl", text))]}, cache_dir=str(made)
        )
        inner = Path(dataset["train"].cache_files[0]["filename"]).parent
        info = json.loads((inner / "dataset_info.json").read_text())
        (inner / "dataset_info.json").write_text(
            json.dumps({**info, "builder_name": "parquet", "dataset_name": "talks", "config_name": config})
        )
        home = cache / "org___talks" / config / "0.0.0" / ("0" * 40)
        shutil.copytree(inner, home)
        for file in home.glob("json-*.arrow"):
            file.rename(home / file.name.replace("json-", "talks-"))
    return cache


def test_a_dataset_of_the_hub_is_read_from_the_cache_without_a_network(cached: Path) -> None:
    rows = load_rows("org/talks:long")
    assert texts(rows) == ["a longer one"]
    assert rows.where(0) == "row 0 of org/talks:long"
    assert texts(load_rows({"path": "org/talks", "config": "default", "split": "train"})) == ["one"]
    with pytest.raises(DataError, match="splits 'train' and no 'test'"):
        load_rows({"path": "org/talks:long", "split": "test"})
    with pytest.raises(DataError, match="contradict each other"):
        load_rows({"path": "org/talks:long", "config": "default"})


def test_a_copy_of_a_dataset_from_the_hub_is_read_by_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    home = tmp_path / "copy"
    write(home / "one.jsonl", "a")
    write(home / "two.jsonl", "b")
    (home / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: one.jsonl\n"
        "  - split: held_out\n    path: two.jsonl\n---\n# A card\n"
    )
    assert texts(load_rows(home)) == ["a"]
    assert texts(load_rows({"path": str(home), "config": "small", "split": "held_out"})) == ["b"]


def test_a_saved_dict_of_splits_gives_the_one_that_is_named(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_list([{"text": name}]) for name in ("train", "other")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert texts(load_rows(tmp_path / "saved")) == ["train"]
    assert texts(load_rows({"path": str(tmp_path / "saved"), "split": "other"})) == ["other"]


def test_a_name_that_is_nowhere_is_explained_without_a_network() -> None:
    with pytest.raises(DataError, match=r"not in the local cache, while HF_HUB_OFFLINE is set. Download it"):
        load_rows("nobody/nothing")
