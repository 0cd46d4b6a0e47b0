"""`posttrain data filter` from its words to its files."""

import io
import json
import sys

import pytest

from posttrain.cli.data import run
from posttrain.errors import ConfigError, DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [
    {"prompt": "a?", "completion": "one two three"},
    {"prompt": "a?", "completion": "one"},
    {"prompt": "A?", "completion": "One two  three"},
    {"prompt": "b?", "completion": "no, not that one"},
]


def test_flags_decide_and_the_funnel_is_shown(tmp_path, capsys):
    path, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    words = ["filter", path, "--output", str(output), "--min_answer_words", "2", "--forbidden_words", "no"]
    assert run(words) == 0
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["_provenance"]["line"] for row in kept] == [1]
    assert kept[0]["_provenance"]["passed"] == ["empty", "formatting", "length", "words", "duplicates"]
    shown = capsys.readouterr().out
    assert "out.jsonl: 1 rows of 4" in shown
    card = json.loads((tmp_path / "out.jsonl.card.json").read_text())
    assert [(s["name"], s["rows_in"], s["rows_out"]) for s in card["steps"]] == [
        ("read", 4, 4), ("empty", 4, 4), ("formatting", 4, 4), ("length", 4, 3), ("words", 3, 2), ("duplicates", 2, 1),
    ]  # fmt: skip
    assert "forbidden_words no" in card["command"]
    assert run(words) == 0
    assert "as before" in capsys.readouterr().out


def test_standard_input_is_read(tmp_path, monkeypatch, capsys):
    text = "".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n"
    for flags, left in (([], 3), (["--select", "1"], 1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        output = tmp_path / f"out{left}.jsonl"
        assert run(["filter", "-", "--output", str(output), *flags]) == 0
        assert len(output.read_text().splitlines()) == left
        rejects = [json.loads(line) for line in (tmp_path / f"out{left}.jsonl.rejects.jsonl").read_text().splitlines()]
        assert rejects[0 if not flags else 1]["step"] in ("read", "duplicates")
        assert left + len(rejects) == 5


def test_words_that_are_wrong_name_the_nearest(tmp_path):
    path = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ConfigError, match="near_duplicates"):
        run(["filter", path, "--output", "out.jsonl", "--near_duplicate", "0.8"])
    with pytest.raises(ConfigError, match="languages"):
        run(["filter", path, "--output", str(tmp_path / "out.jsonl"), "--languages", "xx"])
    with pytest.raises(ConfigError, match=r"\.jsonl"):
        run(["filter", path, "--output", str(tmp_path / "out.xml")])
    assert not (tmp_path / "out.jsonl").exists()


def test_strict_stops_at_a_row_that_cannot_be_used(tmp_path):
    path = write(tmp_path / "in.jsonl", [*ROWS, {"prompt": "a", "completion": 7}])
    with pytest.raises(DataError, match=r"in\.jsonl:5: .*completion"):
        run(["filter", path, "--output", str(tmp_path / "out.jsonl"), "--strict"])
    assert not (tmp_path / "out.jsonl").exists()


def test_one_word_is_a_list_of_one_and_the_output_may_be_a_table(tmp_path):
    path = write(tmp_path / "in.jsonl", ROWS)
    words = ["filter", path, "--output", str(tmp_path / "out.csv"), "--languages", "latin", "--near_duplicates"]
    assert run(words) == 0
    assert (tmp_path / "out.csv").read_text().startswith("prompt,completion")


def test_help_names_the_filters(capsys):
    assert run(["filter", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("--near_duplicates", "--decontaminate", "--max_ifd", "--select", "--languages"):
        assert name in shown
