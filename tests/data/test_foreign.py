"""The files of other tools as they are: OpenAI's conversations and preferences, Self-Instruct's tasks."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.data.formats import detect, examples
from posttrain.data.loading import load_rows
from posttrain.data.messages import read_messages
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import DataError

ASKED = {"role": "user", "content": "Hi"}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {}}}


def test_openai_preferences_are_pairs_with_their_tools(chat_tokenizer: Any) -> None:
    row = {
        "input": {
            "messages": [ASKED],
            "tools": [{"type": "function", "function": WEATHER}],
            "parallel_tool_calls": True,
        },
        "preferred_output": [{"role": "assistant", "content": "I am Qwen."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    rows = load_rows([row])
    (example,) = examples(rows, detect(rows, task="DPO"))
    assert example.prompt == [ASKED]
    assert [answer[0]["content"] for answer in example.completions] == ["I am Qwen.", "No."]  # type: ignore[index]
    assert example.tools == [{"type": "function", "function": WEATHER}]
    assert preference_trees(rows, chat_tokenizer, max_length=None).report.format == "openai-preference"
    with pytest.raises(DataError, match=r"row 0 .*'input' must be \{\"messages\""):
        preference_trees([{**row, "input": "Hi"}], chat_tokenizer, max_length=None)


def test_openai_functions_and_calls_reach_the_template(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = (
        "{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}{% for m in messages %}"
        "<|im_start|>{{ m.role }} {{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
        "<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    call = {"name": "weather", "arguments": '{"place": "Rome"}'}
    row = {
        "messages": [ASKED, {"role": "assistant", "content": None, "function_call": call},
                     {"role": "function", "name": "weather", "content": "sunny"},
                     {"role": "assistant", "content": "Sunny."}],
        "functions": [WEATHER],
    }  # fmt: skip
    report = sft_trees([row], chat_tokenizer, max_length=None).report
    shown = report.render_marked(color=False)
    assert shown.startswith("weather;<|im_start|>user Hi")
    assert '{"name": "weather", "arguments": {"place": "Rome"}}<|im_end|>]]' in shown  # a mapping, not its text
    assert "tool sunny" in shown
    assert report.ignored_columns == ()


def test_calls_keep_arguments_that_are_no_mapping() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": "not json"}}
    assert read_messages([{"role": "assistant", "content": "", "tool_calls": [call]}], "messages")[0]["tool_calls"] == [
        call
    ]
    with pytest.raises(DataError, match=r"messages\[0\].tool_calls must hold calls with a 'name'"):
        read_messages([{"role": "assistant", "content": "", "tool_calls": [{"arguments": "{}"}]}], "messages")


def test_a_task_of_self_instruct_is_a_question_and_its_answer(chat_tokenizer: Any) -> None:
    row = {"id": "t", "instruction": "Add.", "instances": [{"input": "2 and 3", "output": "five"}]}
    rows = load_rows([row, {**row, "instances": [{"input": "", "output": "five"}]}])
    first, second = examples(rows, detect(rows, task="SFT"))
    assert first.prompt == [{"role": "user", "content": "Add.\n2 and 3"}]
    assert second.prompt == [{"role": "user", "content": "Add."}]
    assert sft_trees(rows, chat_tokenizer, max_length=None).report.format == "self-instruct"
    with pytest.raises(DataError, match=r"row 0 .*holds 2 instances.*data convert"):
        sft_trees([{**row, "instances": row["instances"] * 2}], chat_tokenizer, max_length=None)  # type: ignore[operator]
