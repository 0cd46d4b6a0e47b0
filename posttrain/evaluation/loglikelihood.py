"""Texts as tokens for log-likelihoods, and the learner that gives these."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.errors import ModelError
from posttrain.models.learner import Learner
from posttrain.models.reference import tree_logprobs
from posttrain.types import Segment

PASS_TOKENS = 4096  # tokens of one forward pass at most, where a single tree is not longer


@contextlib.contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """The model in eval mode; afterwards as it was, module by module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def learner_of(model: Any) -> Iterator[Learner]:
    """The model as a learner in eval mode; afterwards it is as it was."""
    with in_eval_mode(model):
        learner = Learner(model)
        try:
            yield learner.eval()
        finally:
            learner.release()


def logprobs(trees: Sequence[Segment], learner: Learner) -> list[list[float]]:
    """The log-probabilities of each tree's trained tokens, leaf after leaf."""
    return tree_logprobs(trees, learner, PASS_TOKENS, contextlib.nullcontext)


def first_token(tokenizer: Any) -> int:
    """What stands before a text that begins with nothing before it: bos, or eos where there is none."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError(
        "the tokenizer has neither a bos nor an eos token, after which a text could begin; set tokenizer.bos_token"
    )


def encoded(tokenizer: Any, text: str) -> list[int]:
    """The text's tokens, with the special ones that the tokenizer adds, unless the text begins with that itself."""
    begins = text.startswith(tokenizer.decode([first_token(tokenizer)]))
    return list(tokenizer(text, add_special_tokens=not begins).input_ids)
