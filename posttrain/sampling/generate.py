"""Answers of a Hugging Face model: one as the tutorials ask for it, many at once, or printed with their questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.errors import ConfigError, ModelError
from posttrain.sampling.local import LocalSampler, context_length
from posttrain.sampling.prompts import prompt_messages, prompt_tokens
from posttrain.types import Completion, Message, SamplingParams

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
    draws the same answers; without one the seed comes from torch's global random state. At most `batch_size` answers
    are written at once, and `progress(done, total)` is called when some are done. The model is put into eval mode and
    back.
    """
    completions = generate_completions(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, do_sample=do_sample,
        temperature=temperature, seed=seed, system_message=system_message, progress=progress,
    )  # fmt: skip
    return [completion.text.strip() for completion in completions]


def generate_completions(
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
) -> list[Completion]:
    """The answers of `generate_batch` as completions: the text as written, its tokens, and whether it was finished."""
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1.")
    if do_sample and not temperature > 0:
        raise ConfigError(f"temperature={temperature} must be above 0; for the most likely answer use do_sample=False.")
    if not prompts:
        return []
    asked = [prompt_messages(prompt, number, system_message) for number, prompt in enumerate(prompts)]
    rows = prompt_tokens(tokenizer, asked)
    limit = context_length(model)
    number = max(range(len(rows)), key=lambda n: len(rows[n]))
    longest = len(rows[number])
    if limit is not None and longest + max_new_tokens > limit:
        raise ModelError(
            f"prompt {number} has {longest} tokens; with max_new_tokens={max_new_tokens} that is more than the"
            f" {limit} positions of the model. Shorten the prompt, or use max_new_tokens={max(limit - longest, 0)}."
        )
    params = SamplingParams(max_tokens=max_new_tokens, temperature=temperature if do_sample else 0.0)
    if seed is None:
        seed = int(torch.randint(2**62, ())) if do_sample else 0
    sampler = LocalSampler(model, tokenizer, max_rows=batch_size)
    return [group[0] for group in sampler.sample(rows, params, seed=seed, progress=progress)]
