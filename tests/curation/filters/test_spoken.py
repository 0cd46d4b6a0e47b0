"""What a row says, in each of the shapes that people have."""

import pytest

from posttrain.curation.filters.spoken import Spoken, exchange, spoken
from posttrain.errors import DataError


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"prompt": "a?", "completion": "b"}, "a?", ("b",)),
        ({"instruction": "a", "input": "x", "output": "b"}, "a\nx", ("b",)),
        ({"question": "a?", "answer": "b", "_provenance": {"line": 1}}, "a?", ("b",)),
        ({"text": "all of it"}, "", ("all of it",)),
        ({"prompt": "a?"}, "a?", ()),
        (
            {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]},
            "a?",
            ("b",),
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a?"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c?"},
                    {"role": "assistant", "content": "d"},
                ],
                "label": True,
            },
            "s\na?\nc?",
            ("b", "d"),
        ),
    ],
)
def test_prompt_and_answers(row, prompt, answers):
    said = spoken(row)
    assert (said.prompt, said.answers) == (prompt, answers)


def test_sides_of_a_preference():
    row = {
        "prompt": [{"role": "user", "content": "a?"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    assert spoken(row) == Spoken(prompt="a?", answers=("good",), rejected=("bad",))


def test_calls_of_tools_are_said():
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert "weather" in spoken(row).answers[0]


def test_rows_of_unknown_columns_have_text():
    said = spoken({"id": "7", "tree": {"text": "hello", "role": "user", "replies": [{"text": "there"}]}})
    assert (said.prompt, said.answers, said.text) == ("", (), "7\nhello\nthere")


def test_known_columns_with_something_else_are_an_error():
    with pytest.raises(DataError, match="completion"):
        spoken({"prompt": "a", "completion": 7})
    with pytest.raises(DataError, match="empty or missing"):
        spoken({"prompt": "a", "completion": None})


def test_the_exchange_is_the_last_answer_and_all_before_it():
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert exchange({"messages": messages}) == (messages[:3], [messages[3]])
    assert exchange({"prompt": "p", "completion": "q"}) == ("p", "q")
    assert exchange({"text": "only"}) is None
    assert exchange({"messages": messages[:1]}) is None
