import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.curation.rows import PROVENANCE, Broken, read_stream
from posttrain.curation.tables import WRITERS
from posttrain.data.loading import load_rows

often = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
messages = st.lists(st.dictionaries(st.sampled_from(["role", "content", "name"]), texts, min_size=1), max_size=3)
values = scalars | messages | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
rows_of_values = st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), max_size=6)


def written(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows as they are read back from a file of this ending."""
    source = path.with_name("source.jsonl")
    lines = [json.dumps({**row, PROVENANCE: {"line": number}}) for number, row in enumerate(rows)]
    source.write_text("".join(f"{line}\n" for line in lines))
    WRITERS[path.suffix](source, path)
    found = list(read_stream([str(path)]))
    assert not [row for row in found if isinstance(row, Broken)]
    assert [row[PROVENANCE]["line"] for row in found] == list(range(len(rows)))  # type: ignore[index]
    return [{name: value for name, value in row.items() if name != PROVENANCE} for row in found]  # type: ignore[union-attr]


@often
@given(rows=rows_of_values)
def test_an_array_holds_rows_exactly(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert written(rows, tmp_path / "rows.json") == rows


@often
@given(rows=rows_of_values)
def test_parquet_holds_every_value_and_nothing_where_there_was_none(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    found = written(rows, tmp_path / "rows.parquet")
    assert [without_nothing(row) for row in found] == [without_nothing(row) for row in rows]


def without_nothing(value: Any) -> Any:
    """The value without keys that hold None: a table has every column in every row, and every key in every message."""
    if isinstance(value, dict):
        return {key: without_nothing(item) for key, item in value.items() if item is not None}
    return [without_nothing(item) for item in value] if isinstance(value, list) else value


@often
@given(rows=st.lists(st.fixed_dictionaries({"a": texts, "b": values}), max_size=6))
def test_a_csv_cell_is_the_text_or_the_json_of_a_value(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    found = written(rows, tmp_path / "rows.csv")
    assert [row["a"] for row in found] == [row["a"] for row in rows]
    for cell, value in zip((row["b"] for row in found), (row["b"] for row in rows)):
        if value is None or isinstance(value, str):
            assert cell == (value or "")
        else:
            assert json.loads(cell) in (value, [value])


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet"])
def test_training_reads_the_tables(ending: str, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    rows = [
        {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "a"}], "id": 1},
        {"messages": [{"role": "user", "content": "B"}, {"role": "assistant", "content": "", "tool_calls": [call]}]},
    ]
    written(rows, tmp_path / f"rows{ending}")
    from posttrain.data.formats import detect, examples

    loaded = load_rows(tmp_path / f"rows{ending}")
    read = [example.completions[0] for example in examples(loaded, detect(loaded, task="SFT"))]
    assert read == [row["messages"] for row in rows]
