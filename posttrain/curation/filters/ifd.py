"""IFD: how much of an answer a prompt explains, by the losses of a small model (arXiv:2308.12032).

IFD = L(answer | prompt) / L(answer), each the mean of -log p over the answer's tokens. Near 1 the prompt says nothing
about the answer, near 0 it says all; the paper keeps high ones below 1, from which the model has most to learn. The
answer's tokens are the same in both; alone it follows the token that begins a text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from posttrain.curation.filters.spoken import exchange
from posttrain.curation.rows import Row
from posttrain.errors import ModelError

PASS_TOKENS = 4096  # tokens of one forward pass at most, where a single row is not longer


class IFDScorer:
    """IFD under one model, which is used as it is and let go by `close`."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int = 2048) -> None:
        from posttrain.models.learner import Learner

        self._tokenizer, self._max_length = tokenizer, max_length
        self._learner = Learner(model)
        first = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
        if not first:
            raise ModelError("ifd_model: its tokenizer has neither a bos nor an eos token, after which a text begins")
        self._first = int(first[0])

    @classmethod
    def load(cls, name: str, *, max_length: int = 2048) -> IFDScorer:
        """The scorer with the model in a directory or of this name."""
        from posttrain.models.loading import load_model, load_tokenizer
        from posttrain.models.quiet import no_progress_bars

        with no_progress_bars():
            return cls(load_model(name), load_tokenizer(name), max_length=max_length)

    def close(self) -> None:
        """Gives the model back as it was."""
        self._learner.release()

    def __call__(self, rows: Sequence[Row]) -> list[float | str]:
        """The IFD of each row's last answer, or why it has none. What is longer than `max_length` loses its end."""
        from posttrain.models.reference import tree_logprobs
        from posttrain.types import Segment

        values: list[float | str] = []
        trees, asked = [], []
        for number, row in enumerate(rows):
            made = self._tokens(row)
            values.append(made if isinstance(made, str) else 0.0)
            if not isinstance(made, str):
                prompt, answer = made
                asked.append(number)
                for before in (prompt, [self._first]):
                    end = len(before) + len(answer)
                    trees.append(Segment(tokens=[*before, *answer], trained=[(len(before), end)]))
        losses = [
            -sum(logprobs) / len(logprobs)
            for logprobs in tree_logprobs(trees, self._learner, PASS_TOKENS, contextlib.nullcontext)
        ]
        for place, number in enumerate(asked):
            given, alone = losses[2 * place], losses[2 * place + 1]
            values[number] = given / alone if alone > 0 else "its loss without the prompt is 0"
        return values

    def _tokens(self, row: Row) -> tuple[list[int], list[int]] | str:
        """The tokens of prompt and answer, or why there are none."""
        from posttrain.chat import generation_prompt

        found = exchange(row)
        if found is None:
            return "has no prompt with an answer"
        prompt, answer = found
        text = prompt if isinstance(prompt, str) else generation_prompt(self._tokenizer, prompt)
        said = answer if isinstance(answer, str) else "\n".join(str(message["content"]) for message in answer)
        # A prompt in which the template wrote its special tokens must not get them twice.
        asked = self._tokenizer(text, add_special_tokens=isinstance(prompt, str), verbose=False).input_ids
        asked = list(asked) or [self._first]
        answered = self._tokenizer(said, add_special_tokens=False, verbose=False).input_ids
        room = self._max_length - len(asked)
        if not answered or room < 1:
            return "its answer has no tokens" if not answered else f"its prompt fills the {self._max_length} tokens"
        return asked, list(answered)[:room]
