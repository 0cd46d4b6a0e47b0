"""Prompts for online training: what is read, what the model sees, what the rewards are given, what is refused."""

import pytest
from tiny import build_tokenizer

from posttrain.chat import CHATML
from posttrain.data.prompts import prompt_set
from posttrain.errors import DataError

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two and three?"}]


@pytest.fixture
def tokenizer():
    return build_tokenizer(chat_template=CHATML)


def test_a_text_is_taken_as_it_is_and_messages_are_rendered_up_to_the_answer(tokenizer):
    texts = prompt_set([{"prompt": "Two and three are", "ground_truth": "5"}], tokenizer)
    assert tokenizer.decode(texts.prompts[0].tokens) == "Two and three are"
    assert texts.prompts[0].prompt == "Two and three are"
    chats = prompt_set([{"prompt": CHAT, "ground_truth": "5"}], tokenizer)
    rendered = tokenizer.decode(chats.prompts[0].tokens)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo and three?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chats.prompts[0].prompt == CHAT
    assert chats.prompts[0].columns == {"ground_truth": "5"}
    assert "ground_truth" in chats.report.text()
    assert rendered in chats.report.text()


def test_a_template_without_generation_prompt_is_completed(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    row = prompt_set([{"prompt": CHAT[1:]}], tokenizer).prompts[0]
    assert tokenizer.decode(row.tokens).endswith("<|endoftext|>assistant:")


def test_questions_and_conversations_are_prompts_too(tokenizer):
    question = prompt_set([{"question": "Two and three?", "answer": "5"}], tokenizer).prompts[0]
    assert question.prompt == CHAT[1:]
    assert question.columns == {"answer": "5"}
    assert prompt_set([{"messages": CHAT}], tokenizer).prompts[0].prompt == CHAT


def test_template_kwargs_of_the_run_and_of_the_row(tokenizer):
    tokenizer.chat_template = "{{ tone | default('plain') }}{% if add_generation_prompt %}: {% endif %}"
    rows = [{"prompt": CHAT}, {"prompt": CHAT, "chat_template_kwargs": {"tone": "rude"}}]
    shown = prompt_set(rows, tokenizer, template_kwargs={"tone": "kind"})
    assert [tokenizer.decode(row.tokens) for row in shown.prompts] == ["kind: ", "rude: "]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "a"}, r"row 0 of train_dataset.*text.*hold no prompt"),
        ({"prompt": ""}, r"row 0.*prompt is empty"),
        ({"prompt": None}, r"row 0.*'prompt' is missing"),
        ({"prompt": []}, r"row 0.*is empty"),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "5"}]}, r"row 0.*ends with an assistant's message"),
        ({"prompt": [{"content": "a"}]}, r"row 0.*has no 'role'"),
    ],
)
def test_a_row_without_a_prompt_is_named(tokenizer, row, complaint):
    with pytest.raises(DataError, match=complaint):
        prompt_set([row], tokenizer)
