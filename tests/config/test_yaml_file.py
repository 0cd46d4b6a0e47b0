"""YAML with line numbers, read as people mean it."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config.yaml_file import parse_mapping, parse_value, read_mapping
from posttrain.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("2.0E3", 2000.0), (".5", 0.5), ("3", 3), ("-1", -1), ("no", "no"), ("off", "off"),
        ("true", True), ("False", False), ("null", None), ("[a, 1]", ["a", 1]), ("{a: 1}", {"a": 1}),
        ("2024-01-01", "2024-01-01"), ("a: b: c", "a: b: c"), ("1.2.3", "1.2.3"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_lines_of_nested_keys() -> None:
    _, lines = parse_mapping("a: 1\nb:\n  - c: 2\n    d: 3\n  - e: 4\n", "x.yaml")
    assert lines[("a",)] == 1
    assert lines["b", 0, "d"] == 4
    assert lines["b", 1] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "x.yaml line 1"),
        ("a: 1\n\tb: 2", "x.yaml line 2"),
        ("a: 1\na: 2", "x.yaml line 2: 'a' stands here twice (first on line 1)"),
        ("b:\n  a: 1\n  a: 2", "x.yaml line 3"),
        ("- a", "write one `name: value` a line"),
        ("only words", "write one `name: value` a line"),
        ("a: !!python/object:os.system 1", "not valid YAML"),
        ("a: &x 1\nb: *y", "x.yaml line 2"),
    ],
)
def test_broken_files(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mapping(text, "x.yaml")
    assert message in str(caught.value)


def test_a_missing_file_leads_to_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"did you mean 'recipe.yaml'"):
        read_mapping(tmp_path / "recipee.yaml")
    with pytest.raises(ConfigError, match="is a directory"):
        read_mapping(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_mapping(tmp_path / "binary")
    with pytest.raises(ConfigError, match="no file"):
        read_mapping(tmp_path / "no" / "such")


def test_an_empty_file_holds_no_fields() -> None:
    assert parse_mapping("# nothing\n", "x.yaml") == ({}, {})
