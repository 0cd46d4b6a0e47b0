"""Answers of a Hugging Face model: one as the tutorials ask for it, many at once, or printed with their questions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.chat import generation_prompt, stop_tokens
from posttrain.errors import ConfigError, DataError, ModelError

Message = dict[str, Any]
Prompt = str | Sequence[Message]


def generate_responses(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    user_message: str | None = None,
    system_message: str | None = None,
    max_new_tokens: int = 100,
    full_message: Sequence[Message] | None = None,
) -> str:
    """The model's answer to one message, or to a whole conversation given as `full_message`; greedy, stripped.

    Thinking is switched off where the template knows how. The answer ends at the end of the turn.
    """
    if full_message is not None:
        if user_message is not None or system_message is not None:
            raise ConfigError(
                "full_message is the whole conversation: give it alone, or user_message with system_message."
            )
        prompt: Prompt = full_message
    elif user_message is None:
        raise ConfigError("nothing to answer: give user_message='...' or full_message=[{'role': ..., 'content': ...}].")
    else:
        prompt = user_message
    return generate_batch(model, tokenizer, [prompt], max_new_tokens=max_new_tokens, system_message=system_message)[0]


def test_model_with_questions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    system_message: str | None = None,  # noqa: PT028, it is no test
    title: str = "Model Output",  # noqa: PT028
) -> None:
    """Prints each question with the model's answer under a title."""
    answers = generate_batch(model, tokenizer, list(questions), max_new_tokens=100, system_message=system_message)
    print(f"\n=== {title} ===")
    for number, (question, answer) in enumerate(zip(questions, answers), start=1):
        print(f"\nModel Input {number}:\n{question}\nModel Output {number}:\n{answer}")


# The name is the tutorials'; pytest is not to collect it.
test_model_with_questions.__test__ = False  # type: ignore[attr-defined]


@torch.no_grad()
def generate_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    seed: int | None = None,
    system_message: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """The stripped answers to the prompts, in their order; a prompt is a user message or a conversation.

    Greedy, or with `do_sample` drawn from the model's whole distribution at `temperature`; the model's own
    generation settings (top-p, repetition penalty ...) play no part. With a `seed` the same call on the same machine
    draws the same answers, and the global random state stays as it was. Prompts of similar length share a batch;
    rows that are done wait for the longest of theirs. `progress(done, total)` is called after each batch. The model
    is put into eval mode and back.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1.")
    if do_sample and not temperature > 0:
        raise ConfigError(f"temperature={temperature} must be above 0; for the most likely answer use do_sample=False.")
    if not prompts:
        return []
    rows, seen = [], dict[str, list[int]]()  # sampling asks for the same prompt many times
    for number, prompt in enumerate(prompts):
        row = seen.get(prompt) if isinstance(prompt, str) else None
        if row is None:
            row = _encode(tokenizer, prompt, system_message, number)
        if isinstance(prompt, str):
            seen[prompt] = row
        rows.append(row)
    _check_lengths(model, rows, max_new_tokens)
    stops = _stops(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0] if stops else 0
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        temperature=temperature if do_sample else None,
        top_k=0 if do_sample else None,  # transformers' own default would cut the distribution to 50 tokens
        eos_token_id=stops or None,
        pad_token_id=pad,
        use_cache=True,
    )
    answers = [""] * len(rows)
    longest_first = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    done = 0
    with _generating(model, config), _seeded(model, seed):
        for start in range(0, len(rows), batch_size):
            numbers = longest_first[start : start + batch_size]
            for number, tokens in zip(numbers, _continue(model, [rows[n] for n in numbers], pad)):
                answers[number] = str(tokenizer.decode(_until(tokens, stops), skip_special_tokens=True)).strip()
            done += len(numbers)
            if progress is not None:
                progress(done, len(rows))
    return answers


def _continue(model: PreTrainedModel | PeftModel, rows: Sequence[Sequence[int]], pad: int) -> list[list[int]]:
    """What the model writes after each row; after a row's end its entries are pad tokens."""
    width = max(map(len, rows))
    device = _device(model)
    tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    written = cast(Any, model).generate(input_ids=tokens, attention_mask=mask)
    return written[:, width:].tolist()


def _until(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """The tokens before the first that ends an answer."""
    return tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))]


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, system_message: str | None, number: int) -> list[int]:
    """The prompt's tokens, up to where the model's answer begins."""
    if isinstance(prompt, str):
        messages: list[Message] = [{"role": "user", "content": prompt}]
    elif isinstance(prompt, Sequence) and prompt and all(isinstance(message, Mapping) for message in prompt):
        messages = [dict(cast(Message, message)) for message in prompt]
    else:
        raise DataError(
            f"prompt {number} is {prompt!r:.80}: give a string, or a list of messages"
            " {'role': 'user', 'content': '...'}."
        )
    if system_message is not None:
        if messages[0].get("role") == "system":
            raise DataError(f"prompt {number} has a system message of its own; leave system_message out.")
        messages.insert(0, {"role": "system", "content": system_message})
    # The template writes bos and all other special tokens itself.
    return tokenizer(generation_prompt(tokenizer, messages), add_special_tokens=False).input_ids


def _stops(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    known = model.generation_config.eos_token_id if model.generation_config is not None else None
    own = [] if known is None else [known] if isinstance(known, int) else list(known)
    return list(dict.fromkeys([*stop_tokens(tokenizer), *own]))


def _check_lengths(model: PreTrainedModel | PeftModel, rows: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)  # transformers' name for GPT-2's n_positions, too
    number = max(range(len(rows)), key=lambda n: len(rows[n]))
    longest = len(rows[number])
    if limit is not None and longest + max_new_tokens > limit:
        raise ModelError(
            f"prompt {number} has {longest} tokens; with max_new_tokens={max_new_tokens} that is more than the"
            f" {limit} positions of the model. Shorten the prompt, or use max_new_tokens={max(limit - longest, 0)}."
        )


def _device(model: PreTrainedModel | PeftModel) -> torch.device:
    """Where the model wants its tokens."""
    return cast(Any, model.get_input_embeddings()).weight.device


@contextlib.contextmanager
def _generating(model: PreTrainedModel | PeftModel, config: GenerationConfig) -> Iterator[None]:
    """The model in eval mode and with these generation settings alone; afterwards as it was, module by module.

    transformers fills what a passed generation config leaves open from the model's own (a repetition penalty, say),
    so the model's own is replaced for the time.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    training = [module for module in model.modules() if module.training]
    own = plain.generation_config
    model.eval()
    plain.generation_config = config
    try:
        yield
    finally:
        plain.generation_config = own
        for module in training:
            module.training = True


@contextlib.contextmanager
def _seeded(model: PreTrainedModel | PeftModel, seed: int | None) -> Iterator[None]:
    """torch's random state set to the seed and restored afterwards; without a seed, left to run on."""
    if seed is None:
        yield
        return
    device = _device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
