import io
import json
import sys

import pytest

from posttrain.cli.data import run
from posttrain.errors import ConfigError

KEYS = {
    "version", "status", "inputs", "rows", "settings", "findings", "counts", "histograms", "separability",
    "edit_distance", "displacement", "example", "beta",
}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count):
    return [{"prompt": f"What is {i}?", "completion": f"A number, namely {i}."} for i in range(count)]


@pytest.mark.parametrize(
    ("more", "status"), [([], 0), ([{"prompt": "Hm?", "completion": ""}], 1), ([{"prompt": "Hm?"}], 2)]
)
def test_exit_status(tmp_path, capsys, more, status):
    path = write(tmp_path / "data.jsonl", [*rows(9), *more])
    assert run(["lint", path]) == status
    assert ("not clean" in capsys.readouterr().out) == (status > 0)


def test_json_has_its_keys(tmp_path, capsys):
    pairs = [{"prompt": f"Q{i}", "chosen": f"It is {i}.", "rejected": f"No idea, {i}?"} for i in range(4)]
    path = write(tmp_path / "pairs.jsonl", pairs)
    assert run(["lint", path, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == KEYS
    assert found["separability"]["pairs"] == 4
    assert len(found["beta"]["commands"]) == 3
    assert all("--beta" in command and path in command for command in found["beta"]["commands"])


def test_report_is_written_to_a_file(tmp_path, capsys):
    path = write(tmp_path / "data.jsonl", rows(3))
    assert run(["lint", path, "--format=json", "--output", str(tmp_path / "lint.json")]) == 0
    assert json.loads((tmp_path / "lint.json").read_text())["rows"] == 3
    assert run(["lint", path, "--output", str(tmp_path / "lint.txt")]) == 0
    assert "clean: 0 errors" in (tmp_path / "lint.txt").read_text()
    assert capsys.readouterr().out.count("All of it:") == 2
    with pytest.raises(ConfigError, match="one of the inputs"):
        run(["lint", path, "--output", path])


def test_standard_input(monkeypatch, capsys):
    text = "".join(json.dumps(row) + "\n" for row in rows(5)).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert run(["lint", "-"]) == 0
    assert "5 rows" in capsys.readouterr().out


def test_help_and_what_does_not_go_together(tmp_path, capsys):
    assert run(["lint"]) == 0
    assert "exit status" in capsys.readouterr().out
    path = write(tmp_path / "data.jsonl", rows(3))
    with pytest.raises(ConfigError, match="max_length counts tokens"):
        run(["lint", path, "--max_length", "8"])
    with pytest.raises(ConfigError, match="only without model"):
        run(["lint", path, "--model", "a", "--tokenizer", "b"])
