"""Every known shape of row is understood; every other is refused with what would be needed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chats import CHATML, assistant, system, trained, user

from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import DataError

ASKED, GOOD, BAD = user("who?"), assistant("Deep Qwen."), assistant("Qwen.")


def whole(tokenizer: Any, row: dict[str, Any], **options: Any) -> str:
    (tree,) = sft_trees([row], tokenizer, max_length=None, **options).trees
    return tokenizer.decode(list(tree.tokens))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, GOOD]},
        {"messages": [{**ASKED, "name": None}, {**GOOD, "tool_calls": None}]},  # as datasets fills absent keys
        {"messages": json.dumps([ASKED, GOOD])},  # a cell of a CSV file
        {"messages": [ASKED, GOOD], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},  # UltraFeedback
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "who?"}]}, GOOD]},
        {"messages": [{"role": "Human", "value": "who?"}, GOOD]},
        {"conversations": [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "Deep Qwen."}]},
        {"conversations": [ASKED, GOOD]},
        {"conversations": [{"from": "human", "value": "who?", "role": None, "content": None}, GOOD]},
        {"prompt": [ASKED], "completion": [GOOD]},
        {"prompt": "who?", "completion": [GOOD]},
        {"prompt": [ASKED], "completion": "Deep Qwen."},
        {"instruction": "who?", "input": "", "output": "Deep Qwen."},
        {"instruction": "who?", "context": None, "response": "Deep Qwen.", "category": "identity"},
        {"question": "who?", "answer": "Deep Qwen."},
        {"query": "who?", "response": "Deep Qwen."},
    ],
)
def test_conversations_of_every_shape_are_the_same(chat_tokenizer: Any, row: dict[str, Any]) -> None:
    expected = "<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\nDeep Qwen.<|im_end|>"
    assert whole(chat_tokenizer, row) == expected


def test_system_history_and_input_columns_come_first(chat_tokenizer: Any) -> None:
    alpaca = {
        "instruction": "add", "input": "1 2", "output": "3", "system": "be brief", "history": [["hi", "hello"]],
    }  # fmt: skip
    messages = [system("be brief"), user("hi"), assistant("hello"), user("add\n1 2"), assistant("3")]
    assert whole(chat_tokenizer, alpaca) == whole(chat_tokenizer, {"messages": messages})
    sharegpt = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}
    assert whole(chat_tokenizer, sharegpt).startswith("<|im_start|>system\ns<|im_end|>")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASKED], "chosen": "Deep Qwen.", "rejected": "Qwen."},
        {"prompt": "who?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "who?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 9.0},  # UltraFeedback
        {"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {
            "conversations": [{"from": "human", "value": "who?"}],
            "chosen": {"from": "gpt", "value": "Deep Qwen."},
            "rejected": {"from": "gpt", "value": "Qwen."},
        },
        {"instruction": "who?", "input": "", "chosen": "Deep Qwen.", "rejected": "Qwen."},
        {"question": "who?", "chosen": "Deep Qwen.", "rejected": "Qwen."},
    ],
)
def test_preferences_of_every_shape_are_the_same(chat_tokenizer: Any, row: dict[str, Any]) -> None:
    (tree,) = preference_trees([row], chat_tokenizer, max_length=None).trees
    assert chat_tokenizer.decode(list(tree.tokens)) == "<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n"
    assert trained(chat_tokenizer, tree) == [["Deep Qwen.<|im_end|>"], ["Qwen.<|im_end|>"]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Who? ", "chosen": "Deep Qwen.", "rejected": "Qwen."},
        {"chosen": "Who? Deep Qwen.", "rejected": "Who? Qwen."},
    ],
)
def test_preferences_as_text(tiny_tokenizer: Any, row: dict[str, Any]) -> None:
    (tree,) = preference_trees([row], tiny_tokenizer, max_length=None).trees
    assert tiny_tokenizer.decode(list(tree.tokens)).rstrip() == "Who?"
    answers = [[text.lstrip() for text in leaf] for leaf in trained(tiny_tokenizer, tree)]
    assert answers == [["Deep Qwen.<|endoftext|>"], ["Qwen.<|endoftext|>"]]


def test_tool_calls_are_written_out_where_the_template_cannot_show_them(chat_tokenizer: Any) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "1+1?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Two."},
        ],
        "tools": "[]",
    }
    found = sft_trees([row], chat_tokenizer, max_length=None)
    call = '{"name": "add", "arguments": {"a": 1}}<|im_end|>'
    assert trained(chat_tokenizer, found.trees[0]) == [[call, "Two.<|im_end|>"]]
    assert "does not show tool calls" in found.report.text()
    chat_tokenizer.chat_template = CHATML.replace(
        "{{ m['content'] }}",
        "{{ m['content'] }}{% for c in m['tool_calls'] %}CALL {{ c['function']['name'] }}{% endfor %}",
    )
    found = sft_trees([row], chat_tokenizer, max_length=None)
    assert trained(chat_tokenizer, found.trees[0])[0][0] == "CALL add<|im_end|>"
    assert not found.report.notes


def test_reasoning_parts_become_reasoning_content(chat_tokenizer: Any) -> None:
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "yes"}]
    row = {"messages": [ASKED, {"role": "assistant", "content": parts}]}
    assert "does not show reasoning" in sft_trees([row], chat_tokenizer, max_length=None).report.text()
    chat_tokenizer.chat_template = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m['reasoning_content'] %}({{ m['reasoning_content'] }}) {% endif %}{{ m['content'] }}",
    )
    found = sft_trees([row], chat_tokenizer, max_length=None)
    assert trained(chat_tokenizer, found.trees[0]) == [["(hm) yes<|im_end|>"]]


def test_another_text_column(tiny_tokenizer: Any) -> None:
    assert whole(tiny_tokenizer, {"body": "one", "id": 3}, dataset_text_field="body") == "one<|endoftext|>"


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, ["preference rows", "DPOTrainer", "'completion'"]),
        ({"conversations": [ASKED], "chosen": GOOD, "rejected": BAD}, ["preference rows", "DPOTrainer"]),
        ({"prompt": "a"}, ["prompts without answers", "GRPO", "'prompt' and 'completion'"]),
        ({"messages": [ASKED, GOOD], "label": True}, ["marked good or bad", "filter"]),
        ({"messges": []}, ["'messges'; did you mean 'messages'?", "rename_column"]),
        ({"prompt": "a", "completions": "b"}, ["'completions'; did you mean 'completion'?"]),
        ({"a": 1, "b": 2}, ["columns a, b", "'messages'", "rename_column('a', 'text')"]),
        ({}, ["(none)"]),
        ({"text": 3}, ["'text' must be a string, got int"]),
        ({"text": None}, ["'text' is empty"]),
        ({"messages": "hello"}, ["must be a list of messages", "str 'hello'"]),
        ({"messages": "[{'role"}, ["'messages' looks like JSON"]),
        ({"messages": [{"role": "user"}]}, ["messages[0] (user) has no 'content'"]),
        ({"messages": [{"content": "a"}]}, ["messages[0] has no 'role' (its keys: content)"]),
        ({"messages": [ASKED, {"role": "asistant", "content": "a"}]}, ["messages[1]", "did you mean 'assistant'"]),
        ({"messages": [{"role": "user", "content": 3}]}, ["messages[0] (user) has a int", "must be a string"]),
        ({"messages": ["a"]}, ["messages[0] must be", "str 'a'"]),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ["'image'", "only text"]),
        ({"conversations": [{"from": "alien", "value": "a"}]}, ["conversations[0] has the from 'alien'", "human"]),
        ({"messages": [ASKED, GOOD], "tools": "{"}, ["'tools' is not valid JSON"]),
        ({"messages": [ASKED, GOOD], "tools": 3}, ["'tools' must be a list"]),
        ({"messages": [ASKED, GOOD], "chat_template_kwargs": 3}, ["'chat_template_kwargs' must be a dict"]),
        ({"instruction": "a", "output": "b", "history": ["c"]}, ["'history' must be a list of [question, answer]"]),
        ({"question": [["a"]], "answer": "b"}, ["'question' must be a string"]),
    ],
)
def test_rows_that_sft_cannot_learn_from(chat_tokenizer: Any, row: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        sft_trees([row], chat_tokenizer, max_length=None)
    for part in ["row 0 of train_dataset", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"messages": [ASKED, GOOD]}, ["rows to imitate", "SFTTrainer", "'chosen' and 'rejected'"]),
        ({"prompt": "a", "completion": "b"}, ["rows to imitate"]),
        ({"prompt": "a"}, ["prompts without answers"]),
        ({"prompt": "a", "choosen": "b", "rejected": "c"}, ["'choosen'; did you mean 'chosen'?"]),
        ({"prompt": "a", "completion": "b", "label": False}, ["marked good or bad", "'chosen' and 'rejected'"]),
        ({"prompt": "a", "chosen": "b", "rejected": None}, ["'rejected' is empty"]),
        ({"prompt": "a", "chosen": 1, "rejected": "b"}, ["'chosen' must be a list of messages", "int"]),
        ({"chosen": [ASKED, GOOD], "rejected": "b"}, ["both be text or both be messages"]),
    ],
)
def test_rows_that_dpo_cannot_learn_from(chat_tokenizer: Any, row: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        preference_trees([row], chat_tokenizer, max_length=None, name="eval_dataset")
    for part in ["row 0 of eval_dataset", *parts]:
        assert part in str(error.value)


def test_a_later_row_is_checked_like_the_first(chat_tokenizer: Any, tmp_path: Any) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "answer": "b"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"train.jsonl:2: 'completion' is missing \(columns: prompt, answer\)"):
        sft_trees(path, chat_tokenizer, max_length=None)


def test_a_text_column_that_is_not_there_names_its_neighbour(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"no column 'bodi' \(dataset_text_field\); did you mean 'body'"):
        sft_trees([{"body": "one"}], tiny_tokenizer, max_length=None, dataset_text_field="bodi")
