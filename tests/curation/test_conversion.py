import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.config.curation.convert import ConvertStage
from posttrain.curation.conversion.convert import Converter, convert
from posttrain.curation.conversion.files import convert_files
from posttrain.curation.rows import PROVENANCE, Broken, read_stream
from posttrain.errors import ConfigError, DataError

often = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def own(rows: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != PROVENANCE} for row in rows]


def converted(rows: list[dict[str, Any]], to: str | None = None, **options: Any) -> list[dict[str, Any]]:
    return own(convert(rows, to=to, **options)[0])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "message_id": "p", "role": "prompter", "text": "Why?",
        "replies": [
            {"message_id": "b", "role": "assistant", "text": "Second.", "rank": 1, "replies": []},
            {"message_id": "a", "role": "assistant", "text": "First.", "rank": 0, "replies": [
                {"message_id": "q", "role": "prompter", "text": "And?", "replies": [
                    {"message_id": "c", "role": "assistant", "text": "So.", "rank": None, "replies": []},
                ]},
            ]},
            {"message_id": "d", "role": "assistant", "text": "Third.", "rank": 2, "replies": []},
            {"message_id": "e", "role": "assistant", "text": "Spam.", "rank": 9, "deleted": True, "replies": []},
        ],
    },
}  # fmt: skip
PAIR = {"prompt": [user("Why?")], "chosen": [assistant("Good.")], "rejected": [assistant("Bad.")]}

CASES = [
    # what was given, --to, what is written
    (
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        "messages",
        {"messages": [user("Add.\n1 2"), assistant("3")]},
    ),
    (
        {"instruction": "B", "input": "", "output": "b", "system": "S", "history": [["A", "a"]]},
        "messages",
        {"messages": [{"role": "system", "content": "S"}, user("A"), assistant("a"), user("B"), assistant("b")]},
    ),
    (
        {"messages": [{"role": "system", "content": "S"}, user("A"), assistant("a"), user("B"), assistant("b")]},
        "alpaca",
        {"instruction": "B", "input": "", "system": "S", "history": [["A", "a"]], "output": "b"},
    ),
    ({"question": "1?", "answer": "#### 1", "id": 7}, None, {"messages": [user("1?"), assistant("#### 1")], "id": 7}),
    ({"question": "1?", "answer": "#### 1"}, "prompt-only", {"prompt": [user("1?")], "answer": "#### 1"}),
    (
        {"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "a"}]},
        "prompt-completion",
        {"prompt": [user("A")], "completion": [assistant("a")]},
    ),
    (
        {"conversations": [{"from": "human", "value": "A"}], "chosen": {"from": "gpt", "value": "g"},
         "rejected": {"from": "gpt", "value": "b"}},
        None,
        {"prompt": [user("A")], "chosen": [assistant("g")], "rejected": [assistant("b")]},
    ),
    (
        PAIR,
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt", "value": "Good."},
         "rejected": {"from": "gpt", "value": "Bad."}},
    ),
    (PAIR, "alpaca", {"instruction": "Why?", "input": "", "chosen": "Good.", "rejected": "Bad."}),
    (PAIR, "messages", {"messages": [user("Why?"), assistant("Good.")]}),
    (PAIR, "prompt-only", {"prompt": [user("Why?")]}),
    (
        {"chosen": "Why? Good.", "rejected": "Why? Bad."},
        None,
        {"prompt": "Why?", "chosen": " Good.", "rejected": " Bad."},
    ),
    (
        {"input": {"messages": [user("Why?")]}, "preferred_output": [assistant("Good.")],
         "non_preferred_output": [assistant("Bad.")]},
        None,
        PAIR,
    ),
    (
        {"messages": [user("A"), assistant("a")], "label": True},
        None,
        {"prompt": [user("A")], "completion": [assistant("a")], "label": True},
    ),
    ({"prompt": "A", "completion": "a", "label": "False"}, None, {"prompt": "A", "completion": "a", "label": False}),
    (
        {"messages": [user("A"), assistant("a")], "label": False},
        "sharegpt",
        {"label": False, "conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "a"}]},
    ),
    ({"prompt": "A ", "completion": "a"}, None, {"prompt": "A ", "completion": "a"}),
    ({"prompt": "A ", "completion": "a"}, "text", {"text": "A a"}),
    ({"prompt": "A ", "completion": "a"}, "messages", {"messages": [user("A "), assistant("a")]}),
    ({"text": "Once"}, None, {"text": "Once"}),
    ({"prompt": "A", "key": 3}, None, {"prompt": "A", "key": 3}),
    ({"messages": [user("A")]}, None, {"prompt": [user("A")]}),
    (
        {"messages": [user("1+1"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "2"}, assistant("2")],
         "tools": [TOOL]},
        "sharegpt",
        {"conversations": [
            {"from": "human", "value": "1+1"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "2"},
        ], "tools": '[{"name": "add", "parameters": {}}]'},
    ),
    (
        TREE,
        None,
        {"messages": [user("Why?"), assistant("First."), user("And?"), assistant("So.")], "message_tree_id": "t"},
    ),
    (
        TREE,
        "preference",
        {"prompt": [user("Why?")], "chosen": [assistant("First.")], "rejected": [assistant("Third.")],
         "message_tree_id": "t"},
    ),
    (TREE, "prompt-only", {"prompt": [user("Why?")], "message_tree_id": "t"}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "to", "expected"), CASES)
def test_a_row_says_the_same_in_another_format(row: dict, to: str | None, expected: dict) -> None:
    assert converted([row], to) == [expected]


def test_several_rows_come_of_one_where_it_holds_several() -> None:
    seed = {
        "id": "s",
        "instruction": "Add.",
        "instances": [{"input": "1", "output": "2"}, {"input": "", "output": "3"}],
    }
    rows, card = convert([seed])
    assert own(rows) == [
        {"messages": [user("Add.\n1"), assistant("2")], "id": "s"},
        {"messages": [user("Add."), assistant("3")], "id": "s"},
    ]
    assert [row[PROVENANCE]["instance"] for row in rows] == [0, 1]
    assert card.steps[0].numbers == {"written": 2}
    pairs = converted([TREE], "preference", tree_pairs="every")
    said = [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs]
    assert said == [("First.", "Second."), ("First.", "Third."), ("Second.", "Third.")]
    assert [row["label"] for row in converted([PAIR], "unpaired")] == [True, False]


def test_text_becomes_messages_where_that_is_asked_for() -> None:
    assert converted([{"prompt": "A", "completion": "a"}], "prompt-completion", conversational=True) == [
        {"prompt": [user("A")], "completion": [assistant("a")]}
    ]
    assert converted([{"prompt": "A"}], conversational=True) == [{"prompt": [user("A")]}]


CHAT = {"messages": [user("A"), assistant("a")]}
TEXT = {"prompt": "A", "completion": "a"}
REJECTED = [
    # a row that fits, one that does not, --to, the field and the reason
    (CHAT, {"messages": [user("A"), {"role": "owner", "content": "a"}]}, None, "messages[1]", "has the role 'owner'"),
    (CHAT, {"messages": "A"}, None, "messages", "must be a list"),
    (CHAT, {**CHAT, "tools": "["}, None, "tools", "not valid JSON"),
    (CHAT, {**CHAT, "tools": [TOOL]}, "alpaca", None, "has tools"),
    (CHAT, {"messages": [user("A"), assistant("a", reasoning_content="r")]}, "sharegpt", None, "reasoning_content"),
    (CHAT, {"messages": [user("A"), assistant("a"), assistant("b")]}, "alpaca", None, "not a question after questions"),
    (CHAT, {"messages": [assistant("a")]}, "prompt-completion", None, "does not end with"),
    (CHAT, {"messages": [assistant("a")]}, "prompt-only", None, "asks nothing"),
    (CHAT, {"messages": None, "other": 1}, None, "messages", "missing or empty (columns: other)"),
    ({**CHAT, "label": True}, {**CHAT, "label": False}, "messages", None, "labelled as a bad answer"),
    ({**CHAT, "label": True}, {**CHAT, "label": 3}, None, "label", "must be true"),
    (
        {"chosen": "A b", "rejected": "A c"},
        {"chosen": "a", "rejected": "b"},
        None, "chosen", "no prompt",
    ),
    (TEXT, {"prompt": "A", "completion": '[{"role" is JSON'}, None, "completion", "looks like JSON but is not"),
    (
        {"instruction": "A", "instances": [{"output": "a"}]},
        {"instruction": "A", "instances": [{"input": "x"}]},
        None, "instances[0]", "has no 'output'",
    ),
    (
        TREE,
        {"prompt": {"message_id": "p", "role": "prompter", "text": "A", "replies": []}},
        None, "prompt", "no reply",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fine", "row", "to", "field", "reason"), REJECTED)
def test_a_row_that_does_not_fit_is_rejected_with_its_field_and_stops_no_other(
    fine: dict, row: dict, to: str | None, field: str | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, [fine, row, fine])))
    card = convert_files(ConvertStage(inputs=[str(file)], to=to), tmp_path / "out.jsonl")
    (reject,) = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").open()]
    assert (reject["line"], reject["field"], reject["step"]) == (2, field, "convert")
    assert reason in reject["reason"]
    assert card.counts == {"rows read": 3, "rows written": 2, "rows rejected": 1}


def test_what_cannot_be_written_is_refused_for_the_file_with_what_is_possible() -> None:
    with pytest.raises(ConfigError, match=r"cannot be written as preference; possible are messages, prompt-completion"):
        convert([CHAT], to="preference")
    with pytest.raises(ConfigError, match="possible are text"):
        convert([{"text": "A"}], to="messages")
    with pytest.raises(ConfigError, match="made by a model's chat template"):
        convert([CHAT], to="text")
    with pytest.raises(ConfigError, match="rows are written as"):
        Converter(to="xml")
    with pytest.raises(DataError, match=r"the columns id, truth are of no format that is known"):
        convert([{"id": 1, "truth": 2}])
    with pytest.raises(DataError, match="give a dataset of datasets"):
        convert("rows.jsonl")


def test_inputs_of_different_kinds_do_not_become_one_file_of_two_formats(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(CHAT))
    (tmp_path / "b.jsonl").write_text(json.dumps(PAIR))
    inputs = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    with pytest.raises(ConfigError, match=r"b.jsonl would be written as preference, .*a.jsonl as messages; say which"):
        convert_files(ConvertStage(inputs=inputs), tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out*"))
    convert_files(ConvertStage(inputs=inputs, to="messages"), tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_strict_stops_at_a_row_that_is_not_understood_but_not_at_one_that_is_unwanted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{**CHAT, "label": True}, {**CHAT, "label": False}, {"messages": 3, "label": True}]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"rows.jsonl:3: 'messages' must be a list"):
        convert_files(ConvertStage(inputs=[str(file)], to="messages", strict=True), tmp_path / "out.jsonl")
    file.write_text("\n".join(map(json.dumps, rows[:2])))
    card = convert_files(ConvertStage(inputs=[str(file)], to="messages", strict=True), tmp_path / "out.jsonl")
    assert card.counts["rows written"] == 1


def test_most_rows_tell_the_format_not_the_first() -> None:
    rows = [{"note": "by Ann"}, *[{"messages": [user("A"), assistant("a")]}] * 3]
    made, card = convert(rows)
    assert len(made) == 3
    assert "'messages' is missing" in card.steps[0].examples[0]


def test_a_dataset_gives_a_dataset() -> None:
    import datasets

    made, _ = convert(datasets.Dataset.from_list([{"question": "1?", "answer": "1"}]))
    assert isinstance(made, datasets.Dataset)
    assert made[0]["messages"] == [user("1?"), assistant("1")]


def test_columns_that_would_be_read_as_something_else_are_left_out_and_named() -> None:
    rows = [{"prompt": "A", "completion": "a", "question": "B", "id": 1}]
    made, card = convert(rows)
    assert own(made) == [{"prompt": "A", "completion": "a", "id": 1}]
    assert "The column 'question' of 1 rows is left out" in card.notes[-1]
    assert own(convert([{"prompt": "A", "query": "B"}])[0]) == [{"prompt": "A", "query": "B"}]  # rewards grade by it


texts = st.text(st.characters(codec="utf-8"), max_size=10)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
systems = st.none() | texts.filter(bool)
extras = st.dictionaries(st.sampled_from(["id", "topic"]), texts, max_size=2)


@st.composite
def chats(draw: Any) -> dict[str, Any]:
    """A conversation that ends with an answer."""
    system = draw(systems)
    head = [] if system is None else [{"role": "system", "content": system}]
    pairs = draw(turns)
    return {"messages": [*head, *(m for q, a in pairs for m in (user(q), assistant(a)))], **draw(extras)}


@st.composite
def pairs(draw: Any) -> dict[str, Any]:
    """A preference pair of messages."""
    chat = draw(chats())
    return {
        "prompt": chat["messages"][:-1],
        "chosen": [assistant("+" + draw(texts))],
        "rejected": [assistant("-" + draw(texts))],
        **draw(extras),
    }


@st.composite
def labelled(draw: Any) -> dict[str, Any]:
    chat = draw(chats())
    return {
        "prompt": chat["messages"][:-1],
        "completion": chat["messages"][-1:],
        "label": draw(st.booleans()),
        **draw(extras),
    }


ROUND_TRIPS = [
    (chats(), "messages", ["prompt-completion", "alpaca", "sharegpt"]),
    (pairs(), "preference", ["sharegpt"]),
    (labelled(), "unpaired", ["sharegpt"]),
]


@often
@given(data=st.data(), ending=st.sampled_from([".jsonl", ".json", ".parquet", ".csv"]))
def test_there_and_back_again_is_the_same(data: st.DataObject, ending: str, tmp_path_factory: Any) -> None:
    kind, own_format, others = data.draw(st.sampled_from(ROUND_TRIPS))
    rows = data.draw(st.lists(kind, min_size=1, max_size=4))
    other = data.draw(st.sampled_from([own_format, *others]))
    folder = tmp_path_factory.mktemp("trip")
    first = folder / "first.jsonl"
    first.write_text("\n".join(map(json.dumps, rows)))
    there = convert_files(ConvertStage(inputs=[str(first)], to=other), folder / f"there{ending}")
    assert there.counts == {"rows read": len(rows), "rows written": len(rows), "rows rejected": 0}
    convert_files(ConvertStage(inputs=[str(folder / f"there{ending}")], to=own_format), folder / "back.jsonl")
    back = list(read_stream([str(folder / "back.jsonl")]))
    assert [row[PROVENANCE] for row in back] == [{"source": str(first), "line": n} for n in range(1, len(rows) + 1)]  # type: ignore[index]
    filled = {name: "" for row in rows for name in row} if ending == ".csv" else {}  # a table has every column
    assert own(back) == [{**({n: v for n, v in filled.items() if n in ("id", "topic")}), **row} for row in rows]


@settings(often, max_examples=100)
@given(data=st.data())
def test_no_row_is_lost_and_none_invented(data: st.DataObject) -> None:
    kind, to, _ = data.draw(st.sampled_from(ROUND_TRIPS))
    written = data.draw(st.sampled_from([to, None, "prompt-only", "sharegpt"]))
    other = st.one_of(st.just({}), st.dictionaries(texts, texts, max_size=2), chats(), pairs())
    rows = data.draw(st.lists(st.one_of(kind, kind, kind, other), max_size=8))
    try:
        made, card = convert(rows, to=written)
    except DataError:
        assert not any({"messages", "prompt"} & row.keys() for row in rows)
        return
    except ConfigError:  # another kind has the most rows
        return
    lines = [row[PROVENANCE]["line"] for row in made]
    assert lines == sorted(lines)
    assert len(lines) == len(set(lines)) or all("label" in row for row in made)  # a pair is two labelled answers
    assert set(lines) <= set(range(1, len(rows) + 1))
    assert (card.steps[0].rows_in, card.steps[0].rows_out) == (len(rows), len(set(lines)))


def test_every_row_of_the_public_files_is_converted_or_rejected(public_data: Path, tmp_path: Path) -> None:
    counts = {
        "llamafactory_demo/alpaca_en_demo.json": (999, 999, "messages"),
        "llamafactory_demo/dpo_en_demo.json": (300, 300, "prompt"),
        "llamafactory_demo/glaive_toolcall_en_demo.json": (300, 300, "messages"),
        "llamafactory_demo/kto_en_demo.json": (300, 300, "label"),
        "llamafactory_demo/reason_tool_use_demo_50.jsonl": (50, 50, "messages"),
        "oasst_samples/en_100_tree.jsonl": (100, 100, "messages"),
        "self_instruct_seed/seed_tasks.jsonl": (175, 175, "messages"),
        "bfcl/simple_python.jsonl": (400, 400, "prompt"),
        "sql_eval/questions_gen_sqlite.csv": (210, 209, "prompt"),  # line 236 has quotes that are not doubled
    }
    for number, (name, (read, kept, column)) in enumerate(counts.items()):
        output = tmp_path / f"{number}.jsonl"
        card = convert_files(ConvertStage(inputs=[str(public_data / name)]), output)
        assert card.counts == {"rows read": read, "rows written": kept, "rows rejected": read - kept}, name
        rows = list(read_stream([str(output)]))
        assert len(rows) == kept
        assert all(not isinstance(row, Broken) and column in row for row in rows)
