"""The journal: what is in it once is there again, whatever happened to the process that wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.curation.journal import Journal
from posttrain.errors import ConfigError, DataError

SETTINGS = {"model": "m", "seed": 0}


def test_values_are_found_again_under_their_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add("answers", [(3, "k3", ["x"]), (1, "k1", ["é\ud800"])], spent={"tokens": 5})
        journal.add("scores", [(3, "s", 0.5)])
        assert journal.find("answers", 3, "k3") == ["x"]
        assert journal.find("answers", 3, "other") is None
        assert journal.find("answers", 2, "k3") is None
    with Journal(path, SETTINGS) as again:
        assert again.find("answers", 1, "k1") == ["é\ud800"]
        assert again.find("scores", 3, "s") == 0.5
        assert (again.rows, dict(again.spent)) == (2, {"tokens": 5})
        again.add("answers", [(3, "new", ["y"])], spent={"tokens": 2})
        again.add("answers", [], spent={"tokens": 1})
        assert again.find("answers", 3, "new") == ["y"]
    with Journal(path, SETTINGS) as last:
        assert last.find("answers", 3, "new") == ["y"]
        assert last.spent["tokens"] == 8


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add("answers", [(0, "k", "whole")])
    whole = path.read_bytes()
    for cut in (b'{"kind": "answers", "row": 1, "ke', b'{"kind": "ans'):
        path.write_bytes(whole + cut)
        with Journal(path, SETTINGS) as journal:
            assert journal.find("answers", 0, "k") == "whole"
            journal.add("answers", [(1, "k", "next")])
        with Journal(path, SETTINGS) as journal:
            assert journal.find("answers", 1, "k") == "next"


def test_other_settings_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, SETTINGS):
        pass
    assert not path.exists()  # nothing was asked yet, so nothing is to be gone on with
    with Journal(path, SETTINGS) as journal:
        journal.add("answers", [(0, "k", "v")])
    with pytest.raises(ConfigError, match=r"made with seed 0 \(now 1\)"):
        Journal(path, {**SETTINGS, "seed": 1})
    path.write_text(json.dumps({"prompt": "no journal"}) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: no line of this command"):
        Journal(path, SETTINGS)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, SETTINGS) as journal:
        with pytest.raises(ConfigError, match="being written by another process"):
            Journal(path, SETTINGS)
        journal.add("answers", [(0, "k", "v")])
    with Journal(path, SETTINGS) as again:
        assert again.find("answers", 0, "k") == "v"


def test_in_memory_it_does_the_same() -> None:
    with Journal(None, SETTINGS) as journal:
        journal.add("answers", [(0, "k", "v")], spent={"tokens": 1})
        assert journal.find("answers", 0, "k") == "v"
        assert journal.find("answers", 0, "other") is None
        assert journal.spent["tokens"] == 1
