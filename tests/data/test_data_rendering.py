"""What is trained is what the model would write: no more, no less, whatever the template."""

from __future__ import annotations

from typing import Any

import pytest
from chats import CHATML, FORGETFUL, TUTORIAL, assistant, system, trained, user

from posttrain.data.trees import preference_trees, sft_trees
from posttrain.errors import DataError
from posttrain.types import TokenForest

TALK = [system("be brief"), user("who?"), assistant("Qwen."), user("and now?"), assistant("still Qwen.")]


def tree(rows: list[dict[str, Any]], tokenizer: Any, **options: Any) -> Any:
    (only,) = sft_trees(rows, tokenizer, **{"max_length": None, **options}).trees
    return only


def test_turns_are_trained_with_their_end_and_nothing_else(chat_tokenizer: Any) -> None:
    found = tree([{"messages": [*TALK, user("bye")]}], chat_tokenizer)
    assert trained(chat_tokenizer, found) == [["Qwen.<|im_end|>", "still Qwen.<|im_end|>"]]
    whole = chat_tokenizer.apply_chat_template(TALK, tokenize=False).removesuffix("\n")
    assert chat_tokenizer.decode(list(found.tokens)) == whole


def test_targets_are_the_trained_tokens_shifted_once(chat_tokenizer: Any) -> None:
    found = tree([{"messages": TALK}], chat_tokenizer)
    forest = TokenForest.from_trees([found])
    assert chat_tokenizer.decode(forest.targets) == "Qwen.<|im_end|>still Qwen.<|im_end|>"
    assert forest.tokens[forest.predictors + 1].tolist() == forest.targets.tolist()


def test_spans_end_the_same_where_pad_is_eos(chat_tokenizer: Any) -> None:
    chat_tokenizer.eos_token = chat_tokenizer.pad_token = "<|im_end|>"
    assert trained(chat_tokenizer, tree([{"messages": TALK}], chat_tokenizer))[0][0] == "Qwen.<|im_end|>"
    text = tree([{"text": "one two"}], chat_tokenizer)
    assert chat_tokenizer.decode(list(text.tokens)) == "one two<|im_end|>"
    assert text.trained == [(1, len(text.tokens))]


def test_the_tutorials_template(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = TUTORIAL
    expected = ["Assistant: Qwen. <|endoftext|>", "Assistant: still Qwen. <|endoftext|>"]
    assert trained(tiny_tokenizer, tree([{"messages": TALK}], tiny_tokenizer)) == [expected]
    row = {"prompt": TALK[:2], "chosen": [assistant("Deep Qwen.")], "rejected": [assistant("Qwen.")]}
    (pair,) = preference_trees([row], tiny_tokenizer, max_length=None).trees
    assert trained(tiny_tokenizer, pair) == [["Assistant: Deep Qwen. <|endoftext|>"], [expected[0]]]


def test_a_template_that_never_stops_is_refused(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(DataError, match=r"no special token after.*not learn to stop.*<\|endoftext\|>"):
        sft_trees([{"messages": TALK}], tiny_tokenizer, max_length=None)


def test_a_turn_without_an_end_is_named(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = CHATML.replace(
        "<|im_end|>", "{% if 'odd' not in m['content'] %}<|im_end|>{% endif %}"
    )
    with pytest.raises(DataError, match=r"row 1 of train_dataset: .*no end of turn.*<\|im_end\|>"):
        sft_trees([{"messages": TALK}, {"messages": [user("a"), assistant("odd")]}], tiny_tokenizer, max_length=None)


def test_a_template_that_forgets_trains_each_turn_where_it_is_generated(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = FORGETFUL
    talk = [user("a"), assistant("b", reasoning_content="x"), user("c"), assistant("d", reasoning_content="y")]
    found = sft_trees([{"messages": talk}], tiny_tokenizer, max_length=None)
    (only,) = found.trees
    assert trained(tiny_tokenizer, only) == [["<think>x</think>b<|im_end|>"], ["<think>y</think>d<|im_end|>"]]
    *_, last = only.children
    path = tiny_tokenizer.decode([*only.tokens, *last.tokens])
    assert path == tiny_tokenizer.apply_chat_template(talk, tokenize=False).removesuffix("\n")
    assert "1 rows" in found.report.text()


def test_one_span_per_turn_where_nothing_is_forgotten(chat_tokenizer: Any) -> None:
    assert not tree([{"messages": TALK}], chat_tokenizer).children


def test_an_opening_assistant_turn_answers_nothing(chat_tokenizer: Any) -> None:
    talk = [assistant("Hi, ask me."), user("who?"), assistant("Qwen.")]
    assert trained(chat_tokenizer, tree([{"messages": talk}], chat_tokenizer)) == [["Qwen.<|im_end|>"]]


def test_no_token_of_others_is_trained(chat_tokenizer: Any) -> None:
    talk = [system("SYS"), user("USR"), assistant("ASK"), {"role": "tool", "content": "TOOL"}, assistant("ANS")]
    (spans,) = trained(chat_tokenizer, tree([{"messages": talk}], chat_tokenizer))
    assert spans == ["ASK<|im_end|>", "ANS<|im_end|>"]
    completion = {"prompt": talk[:2], "completion": talk[2:]}
    assert trained(chat_tokenizer, tree([completion], chat_tokenizer)) == [spans]


def test_beginning_of_text_is_never_doubled(make_tokenizer: Any) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer(bos_token="<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = CHATML
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    rows: list[dict[str, Any]] = [
        {"text": "one"}, {"text": "<|im_start|>one"}, {"prompt": "one", "completion": " two"}, {"messages": TALK[1:3]},
    ]  # fmt: skip
    for row in rows:
        tokens = list(tree([row], tokenizer).tokens)
        assert tokens[0] == tokenizer.bos_token_id != tokens[1]


def test_end_of_text_is_never_doubled(make_tokenizer: Any) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    for row in ({"text": "one"}, {"text": "one<|endoftext|>"}, {"prompt": "one", "completion": " two"}):
        assert list(tree([row], tokenizer).tokens).count(tokenizer.eos_token_id) == 1


def test_a_prompt_that_melts_into_its_completion_is_cut_where_the_tokens_part(chat_tokenizer: Any) -> None:
    # " the" is one token: the space that ends the prompt is not a token of the whole
    row = {"prompt": "What is ", "completion": "the capital"}
    assert trained(chat_tokenizer, tree([row], chat_tokenizer)) == [[" the capital<|endoftext|>"]]


def test_slow_tokenizers_find_the_same_spans(chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = tree([{"messages": TALK}], chat_tokenizer)
    monkeypatch.setattr(type(chat_tokenizer), "is_fast", property(lambda self: False))
    assert tree([{"messages": TALK}], chat_tokenizer) == fast


def test_tools_and_template_arguments_reach_the_template(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = (
        "{% if tools %}TOOLS {{ tools[0]['function']['name'] }}\n{% endif %}MOOD {{ mood }}\n" + CHATML
    )
    talk = [user("a"), assistant("b")]
    tools = '[{"name": "add", "parameters": {}}]'
    found = tree([{"messages": talk, "tools": tools, "chat_template_kwargs": {"mood": "calm"}}], chat_tokenizer)
    assert chat_tokenizer.decode(list(found.tokens)).startswith("TOOLS add\nMOOD calm\n")


def test_a_conversation_that_the_template_refuses_is_named(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    )
    rows = [{"messages": TALK[1:]}, {"messages": TALK}]
    with pytest.raises(DataError, match=r"row 1 of train_dataset: .*roles: system, user.*no system here"):
        sft_trees(rows, chat_tokenizer, max_length=None)


def test_a_missing_template_or_eos_is_explained(make_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no chat template"):
        sft_trees([{"messages": TALK}], make_tokenizer(), max_length=None)
    with pytest.raises(DataError, match="no eos_token"):
        sft_trees([{"text": "a"}], make_tokenizer(eos_token=None), max_length=None)
