import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from posttrain.chat import (
    CHATML,
    default_template,
    end_of_turn,
    generation_prompt,
    render,
    stop_tokens,
)
from posttrain.errors import ModelError
from posttrain.models.stopping import set_stop_tokens

TUTORIAL = """{% for message in messages %}
                {% if message['role'] == 'system' %}System: {{ message['content'] }}\n
                {% elif message['role'] == 'user' %}User: {{ message['content'] }}\n
                {% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] }} <|endoftext|>
                {% endif %}
                {% endfor %}"""
USER = [{"role": "user", "content": "Who are you?"}]
ANSWERED = [*USER, {"role": "assistant", "content": "I am Qwen."}]


def test_chatml_where_the_tokens_are_known(tiny_tokenizer):
    assert default_template(tiny_tokenizer) == CHATML
    text = render(tiny_tokenizer, ANSWERED, add_generation_prompt=False)
    assert text == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nI am Qwen.<|im_end|>\n"
    assert tiny_tokenizer.chat_template is None  # rendering does not set it


def plain_tokenizer(**options):
    """A tokenizer without ChatML's tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        ["a b"],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["</s>", "<s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", **options)


def test_plain_template_ends_in_eos_and_its_prompt_is_a_prefix():
    tokenizer = plain_tokenizer()
    text = render(tokenizer, [{"role": "system", "content": "Be kind."}, *ANSWERED], add_generation_prompt=False)
    assert text == "System: Be kind.\nUser: Who are you?\nAssistant: I am Qwen.</s>\n"
    prompt = render(tokenizer, USER, add_generation_prompt=True)
    full = render(tokenizer, ANSWERED, add_generation_prompt=False)
    assert full.startswith(prompt)
    ids, prompt_ids = tokenizer(full).input_ids, tokenizer(prompt).input_ids
    assert ids[: len(prompt_ids)] == prompt_ids
    assert stop_tokens(tokenizer) == [tokenizer.eos_token_id]


def test_default_template_starts_with_bos_only_where_the_tokenizer_adds_one():
    tokenizer = plain_tokenizer(bos_token="<s>")
    assert not default_template(tokenizer).startswith("{{ bos_token }}")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert render(tokenizer, USER, add_generation_prompt=True).startswith("<s>User:")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, ["<|endoftext|>", "<|im_end|>"]),
        (TUTORIAL, ["<|endoftext|>"]),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", ["<|endoftext|>"]),
        ("{{ raise_exception('no chat') }}", ["<|endoftext|>"]),
        # reasoning before the answer, and a second special token after the first: the first one counts
        (
            "{% for m in messages %}<think></think>{{ m.content }}<|im_end|><|endoftext|>{% endfor %}",
            ["<|endoftext|>", "<|im_end|>"],
        ),
    ],
)
def test_stop_tokens_are_eos_and_the_end_of_turn(tiny_tokenizer, template, expected):
    tiny_tokenizer.chat_template = template
    assert tiny_tokenizer.convert_ids_to_tokens(stop_tokens(tiny_tokenizer)) == expected


def test_end_of_turn_without_any_is_none(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(tiny_tokenizer) is None


def test_stop_tokens_reach_the_generation_config_and_old_ones_stay(tiny_tokenizer, tiny_model):
    model = tiny_model("qwen2")
    model.generation_config.eos_token_id = [0, 7]
    assert set_stop_tokens(model, tiny_tokenizer) == [0, 2, 7]
    assert model.generation_config.eos_token_id == [0, 2, 7]
    assert model.generation_config.pad_token_id == tiny_tokenizer.pad_token_id
    assert model.config.eos_token_id == 0


def test_prompt_of_the_tutorials_template_ends_before_the_answer(tiny_tokenizer):
    tiny_tokenizer.chat_template = TUTORIAL
    prompt = generation_prompt(tiny_tokenizer, USER)
    assert prompt.endswith("Assistant:")
    assert render(tiny_tokenizer, ANSWERED, add_generation_prompt=False).startswith(prompt + " I am Qwen.")


def test_prompt_of_an_ordinary_template_is_its_own(tiny_tokenizer):
    assert generation_prompt(tiny_tokenizer, USER).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_refuses_enable_thinking_is_asked_without(tiny_tokenizer):
    tiny_tokenizer.chat_template = (
        "{% if enable_thinking is defined %}{{ raise_exception('unknown option') }}{% endif %}" + CHATML
    )
    assert render(tiny_tokenizer, USER, add_generation_prompt=True).endswith("assistant\n")


def test_several_named_templates(tiny_tokenizer):
    tiny_tokenizer.chat_template = {"default": "{{ messages[0].content }}<|im_end|>", "tool_use": "tools"}
    assert render(tiny_tokenizer, USER, add_generation_prompt=True) == "Who are you?<|im_end|>"


def test_thinking_is_switched_off(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ 'off' if enable_thinking is false else 'on' }}"
    assert render(tiny_tokenizer, USER, add_generation_prompt=True) == "off"


def test_a_refused_conversation_says_what_the_template_said(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ModelError, match=r"System role not supported.*leave it out"):
        render(tiny_tokenizer, USER, add_generation_prompt=True)


def test_default_template_refuses_tools(tiny_tokenizer):
    with pytest.raises(TemplateError, match="cannot show tools"):
        tiny_tokenizer.apply_chat_template(
            USER,
            chat_template=default_template(tiny_tokenizer),
            tokenize=False,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
