import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.curation.json_array import array_rows
from posttrain.curation.reading import expected_rows
from posttrain.curation.rows import PROVENANCE, Broken, input_hashes, read_stream
from posttrain.errors import DataError

texts = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
often = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
rows_of_values = st.lists(
    st.dictionaries(texts.filter(lambda name: name != PROVENANCE), values, max_size=4), max_size=8
)


def own(rows: Any) -> list[dict[str, Any]]:
    """The rows without where they came from; none of them broken."""
    rows = list(rows)
    assert not [row for row in rows if isinstance(row, Broken)]
    return [{name: value for name, value in row.items() if name != PROVENANCE} for row in rows]


def lines(rows: Any) -> list[int]:
    return [row.line if isinstance(row, Broken) else row[PROVENANCE]["line"] for row in rows]


@often
@given(rows=rows_of_values, ascii=st.booleans(), blank=st.sampled_from(["", "\n", " \n"]))
def test_lines_of_json_are_the_rows_in_order(rows: list, ascii: bool, blank: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes("".join(json.dumps(row, ensure_ascii=ascii) + "\n" + blank for row in rows).encode())
    assert own(read_stream([str(file)])) == rows


@often
@given(rows=rows_of_values, indent=st.sampled_from([None, 0, 2, "\t"]), block=st.sampled_from([1, 7, 100]))
def test_an_array_is_its_elements_however_it_is_read(rows: list, indent: Any, block: int, tmp_path: Path) -> None:
    written = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    file = tmp_path / "rows.json"
    file.write_bytes(written)
    assert own(read_stream([str(file)])) == rows

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(block)

    assert [value for _, value in array_rows("x", Slow(written))] == rows


@often
@given(records=st.lists(st.lists(texts, min_size=2, max_size=2), max_size=8), ending=st.sampled_from([".csv", ".tsv"]))
def test_a_table_of_text_is_its_records(records: list, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows{ending}"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter="\t" if ending == ".tsv" else ",")
        writer.writerows([["a", "b"], *records])
    assert own(read_stream([str(file)])) == [dict(zip("ab", record)) for record in records]


@often
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"n": st.integers(-9, 9), "t": texts, "m": st.lists(st.fixed_dictionaries({"r": texts}), max_size=2)}
        ),
        min_size=1,
        max_size=8,
    )
)
def test_parquet_and_saved_datasets_are_their_rows(rows: list, tmp_path: Path) -> None:
    import datasets

    dataset = datasets.Dataset.from_list(rows)
    dataset.to_parquet(tmp_path / "rows.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    for name in ("rows.parquet", "saved"):
        read = list(read_stream([str(tmp_path / name)]))
        assert own(read) == rows
        assert lines(read) == list(range(1, len(rows) + 1))


BROKEN_LINES = [
    (b'{"a": ', "ends early", None),
    (b"{'a': 1}", "double quotes", None),
    (b'{"a": 1} {"a": 2}', "one object and nothing else", None),
    (b"[1, 2]", "is a list, not an object", None),
    (b'"text"', "is a str, not an object", None),
    (b'{"a": "\xff"}', "not UTF-8", None),
    (b'{"a": {"b": [1, NaN]}}', "no number", "a.b[1]"),
    (b'{"a": -Infinity}', "no number", "a"),
    (b'{"a": 1e999}', "no number", "a"),
    (b'{"a": "x\\ud800"}', "surrogate", "a"),
    (b'{"_provenance": "here"}', "not an object", "_provenance"),
    (b'{"a": ' + b"[" * 100_000 + b"}", "too deeply", None),
    (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON", None),
]


@pytest.mark.parametrize(("line", "reason", "field"), BROKEN_LINES)
def test_a_broken_line_names_place_and_reason_and_stops_no_other(
    line: bytes, reason: str, field: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}')
    first, broken, last = read_stream([str(file)])
    assert isinstance(broken, Broken)
    assert reason in broken.reason
    assert (broken.source, broken.line, broken.field) == (str(file), 3, field)
    assert len(broken.text) <= 1000
    assert [first["a"], last["a"]] == [1, 2]  # type: ignore[index]
    with pytest.raises(DataError, match=r"rows.jsonl:3"):
        list(read_stream([str(file)], strict=True))


def test_an_array_goes_on_behind_a_broken_element_that_has_its_own_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('[\n  {"a": 1},\n  {"a": {\n    "b": oh}},\n  {"a": "x" "y"},\n  {"a": NaN},\n  {"a": 2}\n]')
    read = list(read_stream([str(file)]))
    assert [isinstance(row, Broken) for row in read] == [False, True, True, True, False]
    assert lines(read) == [2, 3, 5, 6, 7]
    assert "line 4" in read[1].reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "whole", "reason"),
    [
        ('[{"a": 1}, {"a": oh}, {"a": 2}]', 1, "Expecting value"),
        ('[{"a": 1}, {"a": 2}', 2, "not closed"),
        ('[{"a": 1}, {"a": "two', 1, "ends early"),
        ('[{"a": 1}; {"a": 2}]', 1, "expected , or ]"),
        ('[{"a": 1}]\n[{"a": 2}]', 1, "after the end"),
    ],
)
def test_what_is_lost_of_an_array_is_one_broken_row(text: str, whole: int, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    *read, broken = read_stream([str(file)])
    assert len(own(read)) == whole
    assert lines(read) == list(range(1, whole + 1))
    assert isinstance(broken, Broken)
    assert reason in broken.reason


def test_records_that_do_not_fit_the_header_are_broken_at_the_line_where_they_begin(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfa,b\n1,2\n"x\ny",z,1\nq\n"v\nw",\xfe\n"a"b,c\n3,4\n5,"6')
    read = list(read_stream([str(file)]))
    assert [row.line for row in read if isinstance(row, Broken)] == [3, 5, 6, 8, 10]
    assert [(row.field, row.reason.split(";")[0]) for row in read if isinstance(row, Broken)][:3] == [
        (None, "has 3 fields, the header 2"),
        (None, "has 1 fields, the header 2"),
        ("b", "is not UTF-8"),
    ]
    assert [row.text for row in read if isinstance(row, Broken)][3:] == ['"a"b,c', '5,"6']
    assert own(row for row in read if not isinstance(row, Broken)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_a_packed_file_is_read_and_one_that_is_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % number for number in range(50_000)))
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(whole)
    assert len(own(read_stream([str(file)]))) == 50_000
    file.write_bytes(whole[: len(whole) // 2])
    *read, broken = read_stream([str(file)])
    assert isinstance(broken, Broken)
    assert "cannot be read from here on" in broken.reason
    assert [row["a"] for row in own(row for row in read if not isinstance(row, Broken))] == list(range(len(read)))
    assert len(read) > 10_000


def test_a_damaged_packed_file_is_broken_where_it_is_damaged(tmp_path: Path) -> None:
    for name, begin, row in (("rows.jsonl.gz", b"", b'{"a": %d}\n'), ("rows.csv.gz", b"a\n", b"%d\n")):
        whole = gzip.compress(begin + b"".join(row % (number * 7919 % 100_003) for number in range(50_000)))
        file = tmp_path / name
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 0xFF
        for data in (bytes(damaged), whole[: len(whole) // 2]):
            file.write_bytes(data)
            *read, broken = read_stream([str(file)])
            assert isinstance(broken, Broken)
            assert "cannot be read from here on" in broken.reason
            assert len(read) > 10_000
            assert expected_rows([str(file)]) is None
    damaged = bytearray(gzip.compress(json.dumps([{"a": n * 7919 % 100_003} for n in range(50_000)]).encode()))
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "rows.json.gz").write_bytes(damaged)
    *read, broken = read_stream([str(tmp_path / "rows.json.gz")])
    assert isinstance(broken, Broken)
    assert len(read) > 10_000


def test_several_inputs_keep_their_order_and_a_row_keeps_what_it_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"a": 1, "_provenance": {"source": "earlier.csv", "line": 7, "passed": ["x"]}}')
    (tmp_path / "a.json").write_text('[{"a": 2}]')
    read = list(read_stream([str(tmp_path / "b.jsonl"), str(tmp_path / "a.json")]))
    assert read[0][PROVENANCE] == {"source": "earlier.csv", "line": 7, "passed": ["x"]}  # type: ignore[index]
    assert read[1][PROVENANCE] == {"source": str(tmp_path / "a.json"), "line": 1}  # type: ignore[index]


def test_standard_input_is_lines_or_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b'{"a": 1}\n{"a": 2}\n', b' [{"a": 1},\n{"a": 2}]'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert own(read_stream(["-"])) == [{"a": 1}, {"a": 2}]
    assert input_hashes(["-"]) == {"-": None}


def test_inputs_that_cannot_be_opened_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None, said: str) -> None:
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_stream([str(file)])

    refused("rows.jsonl", None, "no file")
    refused("rows.txt", b"text", r"ends in '\.txt'")
    refused("rows.parquet", b"PAR1", "not a whole Parquet file")
    refused("rows.json.gz", b"[]", "no gzip file")
    refused("spread.json", b'{\n  "a": 1\n}', "over several lines")
    refused("utf16.csv", "a,b".encode("utf-16"), "UTF-16")
    with pytest.raises(DataError, match=r"name its files: rows.json"):
        read_stream([str(tmp_path)])
    with pytest.raises(DataError, match="named twice"):
        read_stream(["-", "-"])
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(DataError, match="named twice"):
        read_stream([str(tmp_path / "rows.jsonl"), f"{tmp_path}/./rows.jsonl"])
    with pytest.raises(DataError, match="no input"):
        read_stream([])
    (tmp_path / "twice.csv").write_text("a,a\n1,2")
    with pytest.raises(DataError, match="names 'a' twice"):
        list(read_stream([str(tmp_path / "twice.csv")]))


def test_what_json_cannot_hold_of_a_table_is_broken(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    import pyarrow.parquet

    rows = [{"a": 1.5, "d": datetime.date(2026, 1, 2)}, {"a": float("nan"), "d": None}, {"a": 2.0, "d": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, broken, last = read_stream([str(tmp_path / "rows.parquet")])
    assert first["d"] == "2026-01-02"  # type: ignore[index]
    assert isinstance(broken, Broken)
    assert (broken.line, broken.field) == (2, "a")
    assert last["a"] == 2.0  # type: ignore[index]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": b"\x00"}]), tmp_path / "rows.parquet")
    (broken,) = read_stream([str(tmp_path / "rows.parquet")])
    assert isinstance(broken, Broken)
    assert "binary" in broken.reason
