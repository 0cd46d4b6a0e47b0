"""Templates by name: each trains exactly the answers with their end, and asks for an answer as it was trained."""

from __future__ import annotations

from typing import Any

import pytest
from chats import assistant, system, trained, user

from posttrain.chat import generation_prompt, stop_tokens
from posttrain.data.templates import TEMPLATES, named_template
from posttrain.data.trees import sft_trees
from posttrain.errors import ConfigError
from posttrain.trainers.chat_template import chat_template

TALK = [system("Be short."), user("who?"), assistant("Qwen."), user("and you?"), assistant("A fox.")]
# as the formats are published, with <bos> and <eos> for the tokens that begin and end a text
WRITTEN = {
    "chatml": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n"
    "Qwen.<|im_end|>\n",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nwho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nQwen.<|eot_id|>",
    "gemma": "<start_of_turn>user\nBe short.\n\nwho?<end_of_turn>\n<start_of_turn>model\nQwen.<end_of_turn>\n",
    "phi3": "<|system|>\nBe short.<|end|>\n<|user|>\nwho?<|end|>\n<|assistant|>\nQwen.<|end|>\n",
    "zephyr": "<|system|>\nBe short.<eos>\n<|user|>\nwho?<eos>\n<|assistant|>\nQwen.<eos>\n",
    "mistral": "[INST] Be short.\n\nwho? [/INST] Qwen.<eos>",
    "vicuna": "Be short. USER: who? ASSISTANT: Qwen.<eos>",
    "alpaca": "Be short.\n\n### Instruction:\nwho?\n\n### Response:\nQwen.<eos>\n\n",
    "plain": "System: Be short.\nUser: who?\nAssistant: Qwen.<eos>\n",
}


@pytest.fixture
def tokenizer_for(make_tokenizer: Any) -> Any:
    def make(name: str, **options: Any) -> Any:
        made = make_tokenizer(**options)
        made.add_special_tokens({"additional_special_tokens": list(TEMPLATES[name].tokens)})
        made.chat_template = named_template(name, made)
        return made

    return make


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_trains_the_answers_with_the_token_that_stops_them(tokenizer_for: Any, name: str) -> None:
    tokenizer = tokenizer_for(name)
    (tree,) = sft_trees([{"messages": TALK}], tokenizer, max_length=None).trees
    first, second = trained(tokenizer, tree)[0]
    for text, answer in ((first, "Qwen."), (second, "A fox.")):
        assert text.lstrip().startswith(answer)
        (stop,) = tokenizer(text.lstrip().removeprefix(answer), add_special_tokens=False).input_ids
        assert stop in stop_tokens(tokenizer)
    # what is asked when a model answers is what came before the first trained token
    asked = generation_prompt(tokenizer, TALK[:2])
    assert tokenizer.decode(tree.tokens[: tree.trained[0][0]]) == asked


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_the_format_of_its_name(tokenizer_for: Any, name: str) -> None:
    tokenizer = tokenizer_for(name)
    text = tokenizer.apply_chat_template(TALK[:3], tokenize=False)
    assert text.replace(tokenizer.eos_token, "<eos>") == WRITTEN[name]


def test_each_format_has_an_example() -> None:
    assert TEMPLATES.keys() == WRITTEN.keys()


def test_tools_are_refused_rather_than_left_out(tokenizer_for: Any) -> None:
    for name in TEMPLATES:
        with pytest.raises(Exception, match="cannot show tools"):
            tokenizer_for(name).apply_chat_template(TALK[:3], tools=[{"name": "add"}], tokenize=False)


def test_missing_tokens_are_named_with_the_ways_out(make_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"<\|eot_id\|>.*add_special_tokens.*zephyr, mistral"):
        named_template("llama3", make_tokenizer())


def test_a_text_begins_as_the_tokenizer_begins_one(make_tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(bos_token="<|im_start|>")
    assert not named_template("zephyr", tokenizer).startswith("{{ bos_token }}")  # it puts none before plain text
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    assert named_template("zephyr", tokenizer).startswith("{{ bos_token }}")


def test_a_file_a_directory_or_a_name(tmp_path: Any, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages }}")
    assert chat_template(str(file), tokenizer) == "{{ messages }}"
    tokenizer.chat_template = "{{ 1 }}"
    tokenizer.save_pretrained(tmp_path / "saved")
    assert chat_template(str(tmp_path / "saved"), tokenizer) == "{{ 1 }}"
    assert chat_template("chatml", tokenizer) == TEMPLATES["chatml"].text
    with pytest.raises(ConfigError, match="did you mean 'alpaca'"):
        chat_template("alpacca", tokenizer)
    with pytest.raises(ConfigError, match="neither a file"):
        chat_template(str(tmp_path / "none.jinja"), tokenizer)
    make_tokenizer().save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="has no chat template"):
        chat_template(str(tmp_path / "bare"), tokenizer)
