"""`posttrain config`: what its commands print, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli.main import main


def test_schema_goes_to_the_terminal_or_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "sft"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["config", "schema", "sft", "--output", str(tmp_path / "sft.json")]) == 0
    assert json.loads((tmp_path / "sft.json").read_text()) == printed
    assert main(["config", "schema"]) == 0
    assert "stages" in json.loads(capsys.readouterr().out.split("\n", 1)[1])["properties"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["schema", "stf"], "did you mean 'sft'"),
        (["schema", "sft", "--outptu", "x"], "did you mean '--output'"),
        (["schema", "sft", "--output"], "needs a value"),
        (["schema", "sft", "--output", "/nowhere/at/all.json"], "No such file"),
        (["schemas"], "did you mean 'schema'"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["schema", "--help"]])
def test_help_says_how(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *words]) == 0
    assert "Usage: posttrain config" in capsys.readouterr().out
