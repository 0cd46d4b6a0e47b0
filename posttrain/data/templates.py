"""Chat templates by name, for a tokenizer that has none or the wrong one.

Each writes what the format of that name is publicly described to be. An answer ends with a token of its own or with the
tokenizer's end of text; a format without a place for system messages puts theirs before the first question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.chat import CHATML, PLAIN, with_bos
from posttrain.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NamedTemplate:
    """A chat template, and the tokens that it writes and a vocabulary has to have."""

    text: str
    tokens: tuple[str, ...] = ()


_ONLY_TALK = (
    "{% if tools %}{{ raise_exception('this chat template cannot show tools') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('this chat template knows system, user and assistant, not ' + m['role']) }}"
    "{% endif %}{% endfor %}"
)
# `talk` are the messages without the system's, which the first question takes in
_SYSTEM_IN_QUESTION = (
    "{% set system = messages[0]['content'] + '\n\n' if messages and messages[0]['role'] == 'system' else '' %}"
    "{% set talk = messages[1:] if system else messages %}"
)
_ANSWER = "(m['content'] or '') + eos_token"


def _marked_roles(before: str, between: str, end: str, roles: Mapping[str, str], system: str = "") -> str:
    """A template whose every turn is: before, the role's name, between, the content, end."""
    names = "{% set names = {" + ", ".join(f"'{role}': '{name}'" for role, name in roles.items()) + "} %}"
    content = (
        "(system if loop.first else '') + (m['content'] or '') | trim" if system else "(m['content'] or '') | trim"
    )
    return (
        _ONLY_TALK + names + system + "{% for m in " + ("talk" if system else "messages") + " %}"
        "{{ '" + before + "' + names[m['role']] + '" + between + "' + " + content + " + " + end + " }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + before + roles["assistant"] + between + "' }}{% endif %}"
    )  # fmt: skip


_SAME = {"system": "system", "user": "user", "assistant": "assistant"}

TEMPLATES: Mapping[str, NamedTemplate] = {
    "chatml": NamedTemplate(text=CHATML, tokens=("<|im_start|>", "<|im_end|>")),
    "llama3": NamedTemplate(
        text=_marked_roles("<|start_header_id|>", "<|end_header_id|>\n\n", "'<|eot_id|>'", _SAME),
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma": NamedTemplate(
        text=_marked_roles(
            "<start_of_turn>", "\n", "'<end_of_turn>\n'", {"user": "user", "assistant": "model"}, _SYSTEM_IN_QUESTION
        ),
        tokens=("<start_of_turn>", "<end_of_turn>"),
    ),
    "phi3": NamedTemplate(
        text=_marked_roles("<|", "|>\n", "'<|end|>\n'", _SAME),
        tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "zephyr": NamedTemplate(text=_marked_roles("<|", "|>\n", "eos_token + '\n'", _SAME)),
    "mistral": NamedTemplate(
        text=_ONLY_TALK + _SYSTEM_IN_QUESTION + "{% for m in talk %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + " + _ANSWER + " }}{% endif %}{% endfor %}"
    ),
    "vicuna": NamedTemplate(
        text=_ONLY_TALK + "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ 'ASSISTANT: ' + " + _ANSWER + " }}"
        "{% else %}{{ ('USER: ' if m['role'] == 'user' else '') + m['content'] + ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "alpaca": NamedTemplate(
        text=_ONLY_TALK + "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '### Response:\n' + " + _ANSWER + " + '\n\n' }}"
        "{% else %}{{ ('### Instruction:\n' if m['role'] == 'user' else '') + m['content'] + '\n\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
    ),
    "plain": NamedTemplate(text=PLAIN),
}  # fmt: skip


def named_template(name: str, tokenizer: Any) -> str:
    """The template of that name in `TEMPLATES`. Raises ConfigError where this tokenizer lacks its tokens."""
    named = TEMPLATES[name]
    if missing := [token for token in named.tokens if not _is_one_token(tokenizer, token)]:
        others = ", ".join(key for key, other in TEMPLATES.items() if not other.tokens)
        raise ConfigError(
            f"chat_template_path={name!r} writes {', '.join(missing)}, which the tokenizer does not know as tokens. "
            f"Name them in add_special_tokens, or take a template that ends answers with the end of text: {others}."
        )
    return with_bos(tokenizer, named.text)


def _is_one_token(tokenizer: Any, token: str) -> bool:
    return len(tokenizer(token, add_special_tokens=False).input_ids) == 1
