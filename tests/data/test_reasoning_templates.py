"""Templates that drop earlier reasoning: each turn is trained as it is generated, from what is then seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from chats import assistant, system, user
from tiny import build_model

from posttrain.algorithms.sft import sft_batch, sft_loss
from posttrain.data.trees import sft_trees
from posttrain.models.learner import Learner
from posttrain.types import Segment

# The rules of Qwen3's template: reasoning may stand in the content or beside it; it is shown from the last question on,
# where an answer without any gets an empty one; tools answer in a user's turn and are no question.
REASONING = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}"
    "{% set content = m['content'] %}{% set thought = m['reasoning_content'] or '' %}"
    "{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ content }}{% for call in m['tool_calls'] or [] %}<call>{{ call['function']['name'] }}</call>{% endfor %}"
    "<|im_end|>\n"
    "{% elif m['role'] == 'tool' %}<|im_start|>user\n<result>{{ m['content'] }}</result><|im_end|>\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CALL = [{"type": "function", "function": {"name": "add", "arguments": {}}}]
INLINE = [
    system("Be short."), user("one?"), assistant("<think>\nr one\n</think>\n\nsay one."), user("two?"),
    assistant("<think>\nr two\n</think>\n\nsay two."), user("three?"), assistant("say three."),
]  # fmt: skip
BESIDE = [
    user("one?"), assistant("say one.", reasoning_content="r one"), user("two?"),
    assistant("say two.", reasoning_content="r two"),
]  # fmt: skip
TOOLS = [
    user("add?"), assistant("", reasoning_content="which tool", tool_calls=CALL), {"role": "tool", "content": "5"},
    assistant("it is 5.", reasoning_content="read it"), user("and now?"), assistant("done.", reasoning_content="end"),
]  # fmt: skip


def paths(tree: Segment, before: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each trained span: the tokens that are seen before it, and its own."""
    whole = (*before, *tree.tokens)
    for begin, end in tree.trained:
        yield whole[: len(before) + begin], whole[len(before) + begin : len(before) + end]
    for child in tree.children:
        yield from paths(child, whole)


def turns(tokenizer: Any, messages: Any, **options: Any) -> list[tuple[str, str]]:
    """What a model is given for each turn of the assistant, and what it has to write, up to its end."""
    expected = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            given = tokenizer.apply_chat_template(
                messages[:index], tokenize=False, add_generation_prompt=True, **options
            )
            whole = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False, **options)
            assert whole.startswith(given)
            expected.append((given, whole.removeprefix(given).removesuffix("\n")))
    return expected


@pytest.mark.parametrize("messages", [INLINE, BESIDE, TOOLS], ids=["inline", "beside", "tools"])
@pytest.mark.parametrize("options", [{}, {"enable_thinking": True}])
def test_every_turn_is_trained_as_it_is_generated(chat_tokenizer: Any, messages: Any, options: Any) -> None:
    chat_tokenizer.chat_template = REASONING
    found = sft_trees([{"messages": messages, "chat_template_kwargs": options}], chat_tokenizer, max_length=None)
    trained = [
        (chat_tokenizer.decode(seen), chat_tokenizer.decode(own)) for tree in found.trees for seen, own in paths(tree)
    ]
    assert sorted(trained) == sorted(turns(chat_tokenizer, messages, **options))
    assert "in 1 rows: each is trained in the context in which it is generated" in found.report.text()
    (tree,) = found.trees  # what the turns have in common is there once
    sequences = [len(seen) + len(own) for seen, own in paths(tree)]
    assert tree.size < sum(sequences)


def test_earlier_reasoning_is_trained_once_and_never_seen_later(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = REASONING
    (tree,) = sft_trees([{"messages": INLINE}], chat_tokenizer, max_length=None).trees
    texts = [(chat_tokenizer.decode(seen), chat_tokenizer.decode(own)) for seen, own in paths(tree)]
    assert [own for _, own in texts] == [
        "<think>\nr one\n</think>\n\nsay one.<|im_end|>",
        "<think>\nr two\n</think>\n\nsay two.<|im_end|>",
        "<think>\n\n</think>\n\nsay three.<|im_end|>",
    ]
    assert not any("<think>" in seen for seen, _ in texts)


def test_a_tree_of_turns_has_the_loss_of_its_turns_one_by_one(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = REASONING
    trees = sft_trees([{"messages": INLINE}, {"messages": TOOLS}], chat_tokenizer, max_length=None).trees
    learner = Learner(build_model("qwen3")).eval()
    rows = [
        Segment(tokens=[*seen, *own], trained=[(len(seen), len(seen) + len(own))])
        for tree in trees
        for seen, own in paths(tree)
    ]
    with torch.no_grad():
        whole, alone = (sft_loss(b, learner(b.forest)).terms["sft"] for b in (sft_batch(trees), sft_batch(rows)))
    torch.testing.assert_close(whole, alone)
    assert sft_batch(trees).units == sft_batch(rows).units


def test_turns_that_are_too_long_fall_away_one_by_one(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = REASONING
    (tree,) = sft_trees([{"messages": INLINE}], chat_tokenizer, max_length=None).trees
    (seen, first), *others = paths(tree)
    limit = len(seen) + len(first)
    (cut,) = sft_trees([{"messages": INLINE}], chat_tokenizer, max_length=limit).trees
    (whole, *parts), lost = list(paths(cut)), [len(before) >= limit for before, _ in others]
    assert whole == (seen, first)
    assert any(lost)
    kept = [(before, own[: limit - len(before)]) for before, own in others if len(before) < limit]
    assert parts == kept


def test_where_everything_is_trained_it_is_said_that_history_differs(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = REASONING

    def notes(messages: Any) -> str:
        found = sft_trees([{"messages": messages}], chat_tokenizer, max_length=None, assistant_only_loss=False)
        return " ".join(found.report.notes)

    assert "assistant_only_loss=False trains them as history shows them" in notes(INLINE)
    assert "history" not in notes(INLINE[:3])
