"""Perplexity of texts, long ones in windows that follow each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from posttrain.evaluation.generation import KIND_COLUMNS, first_text
from posttrain.evaluation.loglikelihood import encoded, first_token, logprobs
from posttrain.evaluation.places import at
from posttrain.evaluation.records import Record
from posttrain.evaluation.tasks import PerplexityTask
from posttrain.models.learner import Learner
from posttrain.sampling.local import context_length
from posttrain.types import Segment

_SHOWN = 200  # characters of a text that its record repeats


class Perplexity:
    """A task on a learner; its rows are checked, and cut into windows, beforehand."""

    def __init__(self, task: PerplexityTask, learner: Learner, tokenizer: Any) -> None:
        self._task, self._learner = task, learner
        limits = [limit for limit in (task.max_length, _readable(learner.model)) if limit is not None]
        self._texts, self._windows = [], []
        for number, row in enumerate(task.rows, start=1):
            with at(f"task {task.name!r}, row {number}"):
                text = task.text(row)
                tokens = encoded(tokenizer, text)
                self._texts.append(text)
                self._windows.append(windows(tokens, first_token(tokenizer), min(limits, default=len(tokens) + 1)))

    def records(self, rows: Sequence[int], progress: Callable[[int], None]) -> list[Record]:
        """The records of these rows, from 0."""
        flat = logprobs([window for row in rows for window in self._windows[row]], self._learner)
        progress(len(rows))
        found, place = [], 0
        for row in rows:
            own = flat[place : place + len(self._windows[row])]
            place += len(own)
            text = self._texts[row]
            found.append(
                Record(
                    task=self._task.name,
                    row=row + 1,
                    sample=1,
                    prompt=text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...",
                    completion="",
                    grades={},
                    kind=first_text(self._task.rows[row], KIND_COLUMNS),
                    measures={
                        "loglikelihood": sum(sum(values) for values in own),
                        "words": len(re.split(r"\s+", text)),
                        "bytes": len(text.encode()),
                        "tokens": sum(map(len, own)),
                    },
                )
            )
        return found


def _readable(model: Any) -> int | None:
    """How many tokens of a window the model may read, of which it here reads one more than it needs to."""
    limit = context_length(model)
    if limit is None:
        return None
    words = model.get_input_embeddings()
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not words)
    learned = any(limit <= table.num_embeddings <= limit + 8 for table in tables)  # some leave a few rows unused
    return limit - 1 if learned else limit


def windows(tokens: Sequence[int], prefix: int, max_length: int) -> list[Segment]:
    """Roots of at most `max_length` + 1 tokens that together train every token once, the first one after `prefix`.

    The model reads `max_length` tokens of a window and predicts one more. The first window trains all of its own, each
    further one begins with the last token of the one before; the last window is as long as the others and trains what
    is left.
    """
    text = [prefix, *tokens]
    found = []
    done = 1  # tokens of `text` that need no training any more
    while done < len(text):
        end = min(done + max_length, len(text))
        start = max(0, end - max_length - 1)
        found.append(Segment(tokens=list(text[start:end]), trained=[(done - start, end - start)]))
        done = end
    return found
