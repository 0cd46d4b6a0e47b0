"""The chat template of a tokenizer that has none, and the tokens at which any template's answers stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    template = CHATML if all(_knows(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>")) else PLAIN
    # A rendered template is tokenised without adding special tokens: a model that expects a bos gets it here.
    starts = tokenizer("a").input_ids[:1]
    has_bos = tokenizer.bos_token_id is not None and starts == [tokenizer.bos_token_id]
    return "{{ bos_token }}" + template if has_bos else template


def _knows(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether the token is one of the vocabulary; asking for the whole vocabulary takes a tenth of a second."""
    found = tokenizer.convert_tokens_to_ids(token)
    return found is not None and tokenizer.convert_ids_to_tokens(found) == token


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool
) -> str:
    """The conversation as text, by the tokenizer's template or the default one, with thinking switched off.

    A template that does not know `enable_thinking` ignores it; one that refuses it is asked again without.
    Raises ModelError with the template's own words where it refuses the conversation, as some do with system
    messages.
    """
    options: dict[str, Any] = {
        # None is the tokenizer's own, which may be several templates by name.
        "chat_template": None if tokenizer.chat_template else default_template(tokenizer),
        "tokenize": False,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return str(tokenizer.apply_chat_template(list(messages), enable_thinking=False, **options))
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


def generation_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> str:
    """The text after which the model answers this conversation.

    That is the template's rendering with its generation prompt. A template without one is completed with what
    it would put before an answer ("Assistant:"), so that the model need not write it itself.
    """
    text = render(tokenizer, messages, add_generation_prompt=True)
    if text != render(tokenizer, messages, add_generation_prompt=False):
        return text
    answered = render(tokenizer, [*messages, {"role": "assistant", "content": _PROBE}], add_generation_prompt=False)
    place = answered.rfind(_PROBE)
    # A space before the answer is left to the answer: most vocabularies join it to the first word.
    return answered[:place].rstrip(" ") if place >= 0 else text


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids at which an answer is over: eos, and what the chat template puts after an answer.

    The latter is the first special token after the answer's text: `<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`.
    """
    stops = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    turn_end = end_of_turn(tokenizer)
    if turn_end is not None and turn_end not in stops:
        stops.append(turn_end)
    return stops


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the template puts after an answer, or None where it puts none."""
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = render(tokenizer, conversation, add_generation_prompt=False)
    except ModelError:  # a template for something other than a user and an assistant
        return None
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    _, found, tail = text.rpartition(_PROBE)
    if not found:
        return None
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - ({bos} - {eos})
    ids = tokenizer(tail, add_special_tokens=False).input_ids
    return next((token for token in ids if token in special), None)


def set_stop_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The stop tokens now in the model's generation config, so that `generate` stops at the end of a turn.

    Stop tokens that it had are kept. The pad token is set as well; the model's own config is not touched.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = plain.generation_config
    if config is None:
        raise ModelError(f"{type(model).__name__} has no generation config: it is not a model that generates text.")
    known = config.eos_token_id
    before = [] if known is None else [known] if isinstance(known, int) else list(known)
    stops = list(dict.fromkeys([*stop_tokens(tokenizer), *before]))
    config.eos_token_id = stops[0] if len(stops) == 1 else stops or None
    if tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id
    return stops
