"""Messages that say whether and how much they are trained, tools, template arguments, and the templates' own marks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chats import CHATML, assistant, system, trained, user

from posttrain.algorithms.sft import sft_batch
from posttrain.data.rewarded import reward_trees
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.data.unpaired import unpaired_trees
from posttrain.errors import CheckpointError, DataError
from posttrain.sources.offline import OfflineSource

# TRL and transformers find the assistant's tokens by these marks
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def talk(*marks: dict[str, Any]) -> dict[str, Any]:
    turns = [[user(f"{i}?"), assistant(f"say {i}.", **mark)] for i, mark in enumerate(marks)]
    return {"messages": [message for turn in turns for message in turn]}


@pytest.mark.parametrize(
    ("marks", "kept"),
    [
        ([{"weight": 0}, {"weight": 1}], [1]),
        ([{"train": True}, {"train": False}], [0]),
        ([{"training": False}, {}], [1]),
        ([{"weight": 1, "train": True}, {"weight": 0.0, "train": False}], [0]),
        ([{"weight": None}, {}], [0, 1]),
    ],
)
def test_a_turn_that_is_not_to_be_trained_is_context(chat_tokenizer: Any, marks: Any, kept: Any) -> None:
    found = sft_trees([talk(*marks)], chat_tokenizer, max_length=None)
    assert trained(chat_tokenizer, found.trees[0]) == [[f"say {i}.<|im_end|>" for i in kept]]
    assert ("0?" in chat_tokenizer.decode(found.trees[0].tokens)) is True  # it is still read
    assert sft_batch(found.trees).weights is None
    assert any("turns of the assistant are context only" in note for note in found.report.notes) is (len(kept) < 2)


def test_weights_are_columns_of_their_turns_and_survive_the_cut(chat_tokenizer: Any) -> None:
    row = talk({"weight": 0.5}, {}, {"weight": 3})
    (tree,) = sft_trees([row], chat_tokenizer, max_length=None).trees
    sizes = [end - begin for begin, end in tree.trained]
    assert tree.columns["weight"] == [0.5] * sizes[0] + [1.0] * sizes[1] + [3.0] * sizes[2]
    assert sft_batch([tree]).units == {"sft": 0.5 * sizes[0] + sizes[1] + 3 * sizes[2]}
    (cut,) = sft_trees([row], chat_tokenizer, max_length=tree.trained[1][0] + 2).trees
    assert cut.columns["weight"] == [0.5] * sizes[0] + [1.0] * 2
    (end,) = sft_trees([row], chat_tokenizer, max_length=sizes[2] + 1, truncation_mode="keep_end").trees
    assert end.columns["weight"] == [3.0] * sizes[2]
    report = sft_trees([row], chat_tokenizer, max_length=None).report
    assert "2 turns of the assistant have a weight" in report.text()


def test_a_run_is_not_resumed_with_other_weights(chat_tokenizer: Any) -> None:
    def source(weight: float) -> OfflineSource:
        trees = sft_trees([talk({"weight": weight}, {})], chat_tokenizer, max_length=None).trees
        return OfflineSource(trees, sft_batch, rows_per_step=1, seed=1)

    source(0.5).load_state_dict(source(0.5).state_dict())
    with pytest.raises(CheckpointError, match="training data"):
        source(0.5).load_state_dict(source(2).state_dict())


def test_a_conversation_of_which_nothing_is_to_be_trained_is_dropped(chat_tokenizer: Any) -> None:
    found = sft_trees([talk({"weight": 0}), talk({})], chat_tokenizer, max_length=None)
    assert found.rows == [1]


@pytest.mark.parametrize("read", [unpaired_trees, reward_trees])
def test_answers_that_are_judged_say_that_weights_do_not_count(chat_tokenizer: Any, read: Any) -> None:
    said = "Here a turn of weight 0 is context, and all others count the same."
    rows = [{**talk({}, {"weight": weight}), "label": True} for weight in (0.5, 1)]
    assert said in read(rows, chat_tokenizer, max_length=None).report.notes
    assert said not in read(rows[1:], chat_tokenizer, max_length=None).report.notes


@pytest.mark.parametrize(
    ("mark", "part"),
    [
        ({"weight": -1}, "at least 0"),
        ({"weight": "high"}, "weight='high'"),
        ({"weight": 1, "train": False}, "both agree"),
        ({"train": "no"}, "train='no'"),
    ],
)
def test_a_mark_that_cannot_be_meant_is_named_with_its_row(chat_tokenizer: Any, mark: Any, part: str) -> None:
    with pytest.raises(DataError, match="row 1 of train_dataset") as caught:
        sft_trees([talk({}), talk(mark)], chat_tokenizer, max_length=None)
    assert part in str(caught.value)


def test_marks_are_not_passed_over_where_everything_is_trained(chat_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"row 0 .* message 1 has the weight 0.*assistant_only_loss=False"):
        sft_trees([talk({"weight": 0}, {})], chat_tokenizer, max_length=None, assistant_only_loss=False)
    sft_trees([talk({"weight": 1}, {})], chat_tokenizer, max_length=None, assistant_only_loss=False)
    row = {"messages": [user("a") | {"train": True}, assistant("b")]}
    notes = sft_trees([row], chat_tokenizer, max_length=None).report.notes
    assert any("1 messages of other roles are marked" in note for note in notes)


def test_a_pair_honours_them_too(chat_tokenizer: Any) -> None:
    chosen = [assistant("one", weight=0), user("?"), assistant("two", weight=2)]
    row = {"prompt": [user("who?")], "chosen": chosen, "rejected": [assistant("three")]}
    found = preference_trees([row], chat_tokenizer, max_length=None)
    assert trained(chat_tokenizer, found.trees[0]) == [["two<|im_end|>"], ["three<|im_end|>"]]
    assert any("all others of a pair count the same" in note for note in found.report.notes)


@pytest.mark.parametrize("opening", [[], [system("short")]])
def test_spans_are_those_that_generation_marks_show(chat_tokenizer: Any, opening: Any) -> None:
    messages = [*opening, *talk({}, {}, {})["messages"]]
    chat_tokenizer.chat_template = MARKED
    theirs = chat_tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    (tree,) = sft_trees([{"messages": messages}], chat_tokenizer, max_length=None).trees
    places = [i for begin, end in tree.trained for i in range(begin, end)]
    assert places == [i for i, bit in enumerate(theirs["assistant_masks"]) if bit]
    assert list(tree.tokens) == theirs["input_ids"][: len(tree.tokens)]


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_tools_and_template_arguments_of_a_row_reach_its_tokens(chat_tokenizer: Any) -> None:
    """As lists and as the JSON text that datasets with mixed types hold; bare functions are wrapped."""
    chat_tokenizer.chat_template = (
        "{% if tools %}{% for t in tools %}<{{ t['function']['name'] }}>{% endfor %}{% endif %}"
        "{% if mood %}[{{ mood }}]{% endif %}" + CHATML
    )
    plain = talk({})

    def text(**columns: Any) -> str:
        (tree,) = sft_trees([plain | columns], chat_tokenizer, max_length=None).trees
        assert trained(chat_tokenizer, tree) == [["say 0.<|im_end|>"]]
        return chat_tokenizer.decode(tree.tokens)

    start = text()
    assert text(tools=[TOOL]) == text(tools=json.dumps([TOOL])) == text(tools=[TOOL["function"]]) == "<add>" + start
    assert text(chat_template_kwargs={"mood": "calm", "other": None}) == "[calm]" + start
    assert text(tools=None, chat_template_kwargs=None) == text(tools="") == start
    with pytest.raises(DataError, match=r"row 0 .*'tools' is not valid JSON"):
        text(tools="[{")
    with pytest.raises(DataError, match="'chat_template_kwargs' must be a dict"):
        text(chat_template_kwargs="calm")
