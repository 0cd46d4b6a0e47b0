"""Chat templates: the default one, conversations as text, and the tokens at which answers stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from posttrain.errors import ModelError

_NO_TOOLS = (
    "{% if tools %}{{ raise_exception('the default chat template cannot show tools: "
    "set tokenizer.chat_template to one that does') }}{% endif %}"
)

CHATML = (
    _NO_TOOLS + "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a tokenizer that knows ChatML's two tokens. An answer stops at `<|im_end|>`."""

PLAIN = (
    _NO_TOOLS + "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + (message['content'] or '') + eos_token + '\n' }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + (message['content'] or '') + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For any other tokenizer. An answer stops at its end-of-text token; the space after the colon belongs to
the answer, because most vocabularies write a word and the space before it as one token."""

_PROBE = "zxqj"  # content that no template contains, to find the place where a template puts an answer


def default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template for a tokenizer without one: ChatML if it has the tokens, else one ending in eos."""
    return with_bos(tokenizer, CHATML if all(_knows(tokenizer, t) for t in ("<|im_start|>", "<|im_end|>")) else PLAIN)


def with_bos(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The template, after the token that begins a text where the tokenizer puts one before plain text.

    A rendered template is tokenised without adding special tokens: a model that expects such a token gets it here.
    """
    starts = tokenizer("a").input_ids[:1]
    has_bos = tokenizer.bos_token_id is not None and starts == [tokenizer.bos_token_id]
    return "{{ bos_token }}" + template if has_bos else template


def _knows(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether the token is one of the vocabulary; asking for the whole vocabulary takes a tenth of a second."""
    found = tokenizer.convert_tokens_to_ids(token)
    return found is not None and tokenizer.convert_ids_to_tokens(found) == token


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as text, by the tokenizer's template or the default one, with thinking switched off.

    `template_kwargs` go to the template (`tools`, and `enable_thinking=True` to leave thinking on).

    A template that does not know `enable_thinking` ignores it; one that refuses it is asked again without.
    Raises ModelError with the template's own words where it refuses the conversation, as some do with system
    messages.
    """
    options: dict[str, Any] = {
        # None is the tokenizer's own, which may be several templates by name.
        "chat_template": None if tokenizer.chat_template else default_template(tokenizer),
        "tokenize": False,
        "add_generation_prompt": add_generation_prompt,
        **(template_kwargs or {}),
    }
    try:
        return str(tokenizer.apply_chat_template(list(messages), **{"enable_thinking": False, **options}))
    except (TemplateError, TypeError, ValueError, KeyError):
        pass
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = [message.get("role") for message in messages]
        raise ModelError(
            f"the chat template refuses a conversation with the roles {roles}: {error}."
            " Each message needs 'role' and 'content'; where the template does not allow a role (some allow"
            " no system message), leave it out or put its text into the first user message."
        ) from error


def generation_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, Any]],
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The text after which the model answers this conversation.

    That is the template's rendering with its generation prompt. A template without one is completed with what
    it would put before an answer ("Assistant:"), so that the model need not write it itself.
    """
    text = render(tokenizer, messages, add_generation_prompt=True, template_kwargs=template_kwargs)
    if text != render(tokenizer, messages, add_generation_prompt=False, template_kwargs=template_kwargs):
        return text
    probe = [*messages, {"role": "assistant", "content": _PROBE}]
    answered = render(tokenizer, probe, add_generation_prompt=False, template_kwargs=template_kwargs)
    place = answered.rfind(_PROBE)
    # A space before the answer is left to the answer: most vocabularies join it to the first word.
    return answered[:place].rstrip(" ") if place >= 0 else text


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids at which an answer is over: eos, and what the chat template puts after an answer.

    The latter is the first special token after the answer's text: `<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`.
    """
    try:
        turn_end = end_of_turn(tokenizer)
    except ModelError:  # a template for something other than a user and an assistant
        turn_end = None
    return [stop for stop in dict.fromkeys((tokenizer.eos_token_id, turn_end)) if stop is not None]


def end_of_turn(tokenizer: PreTrainedTokenizerBase, *, followed: bool = False) -> int | None:
    """The special token that the template puts after an answer, the last one or one `followed` by a question.

    None where it puts none. Raises ModelError where the template cannot render a question and its answer.
    """
    question = {"role": "user", "content": "a"}
    conversation = [question, {"role": "assistant", "content": _PROBE}, *([question] if followed else [])]
    text = render(tokenizer, conversation, add_generation_prompt=False)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    _, found, tail = text.rpartition(_PROBE)
    if not found:
        return None
    special = special_ids(tokenizer) - ({bos} - {eos})
    ids = tokenizer(tail, add_special_tokens=False).input_ids
    return next((token for token in ids if token in special), None)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that text is never split into by chance: special and added tokens."""
    return {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
