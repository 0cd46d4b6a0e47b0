import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.curation.card import Card
from posttrain.curation.output import Output
from posttrain.curation.provenance import noted
from posttrain.curation.rows import Broken, read_stream
from posttrain.errors import ConfigError, DataError


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Seven rows, the third of them broken."""
    rows = [b"{" if number == 3 else b'{"n": %d}' % number for number in range(1, 8)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows))
    return str(tmp_path / "in.jsonl")


def keep_odd(source: str, path: Path, *, stop_before: int | None = None, limit: int = 9, twice: bool = False) -> Output:
    """A command that keeps odd numbers up to a limit, and can be interrupted."""
    with Output(path, command="odd", settings={"limit": limit}, inputs=[source], arguments=["--limit", "9"]) as output:
        for number, row in enumerate([] if output.finished else read_stream([source])):
            if number < output.consumed:
                continue
            if number == stop_before:
                raise KeyboardInterrupt
            if isinstance(row, Broken):
                output.reject(row)
            elif row["n"] % 2 == 0:
                output.reject(row, step="odd", reason="is even", field="n")
            else:
                if twice:
                    output.keep(row, consumed=0)
                output.keep(noted(row, passed=["odd"]))
        if not output.finished:
            output.funnel(["odd", "other"])
    return output


def test_every_row_is_kept_or_rejected_and_the_card_adds_up(source: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    keep_odd(source, path)
    kept = [json.loads(line) for line in path.open()]
    assert [row["n"] for row in kept] == [1, 5, 7]
    assert kept[1]["_provenance"] == {"source": source, "line": 5, "passed": ["odd"]}
    rejects = [json.loads(line) for line in (tmp_path / "new" / "out.jsonl.rejects.jsonl").open()]
    assert [(r["source"], r["line"], r["step"], r["field"]) for r in rejects] == [
        (source, 2, "odd", "n"),
        (source, 3, "read", None),
        (source, 4, "odd", "n"),
        (source, 6, "odd", "n"),
    ]
    assert rejects[1]["text"] == "{"
    assert rejects[0]["row"]["n"] == 2
    card = Card.read(tmp_path / "new" / "out.jsonl.card.json")
    assert card is not None
    assert [(step.name, step.rows_in, step.rows_out) for step in card.steps] == [
        ("read", 7, 6),
        ("odd", 6, 3),
        ("other", 3, 3),
    ]
    assert card.counts == {"rows read": 7, "rows written": 3, "rows rejected": 4}
    assert card.command == "posttrain odd --limit 9"
    assert len(card.inputs[source] or "") == 64
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "out.jsonl",
        "out.jsonl.card.json",
        "out.jsonl.rejects.jsonl",
    ]


@pytest.mark.parametrize("twice", [False, True])
def test_an_interrupted_command_goes_on_and_ends_as_if_it_had_not_been(
    source: str, tmp_path: Path, twice: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = keep_odd(source, tmp_path / "whole.jsonl", twice=twice)
    path = tmp_path / "out.jsonl"
    for stop in (2, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            keep_odd(source, path, stop_before=stop, twice=twice)
        assert not path.exists()
        assert f"stopped with {stop} rows decided. The same command goes on." in capsys.readouterr().err
    output = keep_odd(source, path, twice=twice)
    assert "6 rows are decided; going on" in capsys.readouterr().err
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for name in ("rejects.jsonl",):
        assert (tmp_path / f"out.jsonl.{name}").read_bytes() == (tmp_path / f"whole.jsonl.{name}").read_bytes()
    assert (output.card.steps, output.card.counts) == (whole.card.steps, whole.card.counts)


def test_what_was_written_behind_the_last_decided_row_is_cut_off(source: str, tmp_path: Path) -> None:
    whole = keep_odd(source, tmp_path / "whole.jsonl", twice=True)
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        keep_odd(source, path, stop_before=5, twice=True)
    with (tmp_path / "out.jsonl.partial").open("ab") as file:  # as a process leaves it that was killed while writing
        file.write(b'{"n": 99}\n{"n": 1')
    keep_odd(source, path, twice=True)
    assert path.read_bytes() == whole.path.read_bytes()


def test_a_command_that_ended_is_not_run_again_and_its_output_is_not_another_ones(source: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    keep_odd(source, path)
    before = path.stat().st_mtime_ns
    again = keep_odd(source, path)
    assert again.finished
    assert again.card.counts["rows written"] == 3
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"limit \(9, now 8\).*Name another output, or remove"):
        keep_odd(source, path, limit=8)
    Path(source).write_text('{"n": 1}')
    with pytest.raises(ConfigError, match="input"):
        keep_odd(source, path)
    (tmp_path / "mine.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="was not made by this command"):
        keep_odd(source, tmp_path / "mine.jsonl")
    with pytest.raises(ConfigError, match="also an input"):
        keep_odd(source, Path(source))


def test_another_command_does_not_go_on_with_what_was_begun(source: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        keep_odd(source, tmp_path / "out.jsonl", stop_before=3)
    with pytest.raises(ConfigError, match=r"out.jsonl.partial was begun with another limit.*remove .*partial\*"):
        keep_odd(source, tmp_path / "out.jsonl", limit=8)


@pytest.mark.parametrize(
    ("error", "dear", "kept"), [(OSError, False, True), (DataError, False, False), (DataError, True, True)]
)
def test_an_error_keeps_what_was_decided_unless_the_input_has_to_be_mended(
    error: type[Exception], dear: bool, kept: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        every = 0.0 if dear else 1.0
        with Output(tmp_path / "out.jsonl", command="x", settings={}, inputs=[], commit_every_s=every) as output:
            output.keep({"n": 1})
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "out.jsonl.partial").exists() == kept
    assert ("The same command goes on" in capsys.readouterr().err) == kept


def test_two_processes_do_not_write_one_output(source: str, tmp_path: Path) -> None:
    def other() -> Output:
        return Output(tmp_path / "out.jsonl", command="odd", settings={}, inputs=[source])

    with other() as first:
        first.keep({"n": 1})
        with pytest.raises(ConfigError, match="another process"), other():
            pass
    assert first.path.read_text() == '{"n": 1}\n'


@pytest.mark.parametrize(("inputs", "rows"), [(["-"], [{"n": 1}]), ([], [])])
def test_nothing_stays_of_what_cannot_be_gone_on_with(inputs: list[str], rows: list[Any], tmp_path: Path) -> None:
    def interrupted() -> None:
        with Output(tmp_path / "out.jsonl", command="x", settings={}, inputs=inputs) as output:
            for row in rows:
                output.keep(row)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_funnel_as_a_table_and_a_picture() -> None:
    card = Card(command="x")
    card.step("length", 1000, 800, ["a <short> one"], shorter=150, longer=50)
    card.step("language", 800, 799)
    card.step("language", 800, 600)
    assert card.text().splitlines() == [
        "step         in  out  removed",
        "length    1,000  800      200  shorter 150, longer 50",
        "language    800  600      200",
    ]
    picture = card.picture()
    assert picture.count("<rect") == 3
    assert 'width="288.0"' in picture
    assert 'width="216.0"' in picture


def test_notes_are_merged_into_a_new_row() -> None:
    row = {"a": 1, "_provenance": {"source": "x", "scores": {"length": 1.0}, "passed": ["read"]}}
    new = noted(row, scores={"reward": 0.5}, passed=["length"], model="m")
    assert new["_provenance"] == {
        "source": "x",
        "scores": {"length": 1.0, "reward": 0.5},
        "passed": ["read", "length"],
        "model": "m",
    }
    assert row["_provenance"]["passed"] == ["read"]  # type: ignore[index]
    assert noted({"a": 1}, passed=("x",)) == {"a": 1, "_provenance": {"passed": ["x"]}}
