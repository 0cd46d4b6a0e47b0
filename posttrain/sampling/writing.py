"""Continuous batching: rows that are being written, each replaced from the queue as soon as it is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import SamplingError
from posttrain.models.decoding import Decoder
from posttrain.models.decoding_memory import RowMemory
from posttrain.models.decoding_prompts import PromptMemory
from posttrain.sampling.drawing import draw
from posttrain.sampling.ends import Ends
from posttrain.sampling.queue import Queue, Wanted
from posttrain.sampling.randomness import streams, uniforms
from posttrain.types import SamplingParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A completion as tokens."""

    place: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


def require_numbers(logprobs: np.ndarray) -> None:
    """Raises SamplingError where a token's log-probability is none: then the model's output was not a number."""
    if not np.isfinite(logprobs).all():
        raise SamplingError(
            "the model's output is not a number (NaN) or infinite, so no token can be drawn from it. Its weights have"
            " diverged or do not fit their format; try an earlier checkpoint, or float32."
        )


class Writing:
    """Rows 0 to `count` are being written; what is said of a row here and in the memory has the same index."""

    @torch.no_grad()
    def __init__(
        self,
        wanted: Sequence[Wanted],
        decoder: Decoder,
        params: SamplingParams,
        *,
        ends: Ends,
        seed: int,
        max_rows: int,
        memory_bytes: int,
    ) -> None:
        self._decoder = decoder
        self._params = params
        self._ends = ends
        self._queue = Queue(wanted, decoder.prefill)
        # A group's rows read their prompt where it lies; a prompt with one row is copied into it.
        prompts = {w.prompt for w in wanted}
        shared = len(wanted) >= 2 * len(prompts)
        longest = max(map(len, prompts))
        first = self._queue.first()
        row_tokens = params.max_tokens + (longest * len(prompts) / len(wanted) if shared else longest)
        row_bytes = int(row_tokens * first.bytes_per_token) + 8 * first.logits.numel()
        rows = max(1, min(max_rows, len(wanted), memory_bytes // row_bytes))
        self._memory = RowMemory(
            rows=rows, new_tokens=params.max_tokens, longest_prompt=longest, shared=shared, like=first
        )
        self._rows = rows
        self._wanted: list[Wanted] = []
        self._prompts: list[PromptMemory] = []
        self._seed = seed
        self._streams = np.zeros(rows, dtype=np.uint64)
        self._size = np.zeros(rows, dtype=np.int64)  # tokens written
        self._tokens = np.zeros((rows, params.max_tokens), dtype=np.int64)
        self._logprobs = np.zeros((rows, params.max_tokens), dtype=np.float32)
        self._device = first.logits.device
        self._history: Tensor | None = None
        if params.repetition_penalty != 1:
            self._history = torch.zeros(rows, longest + params.max_tokens, dtype=torch.int64, device=self._device)

    def so_far(self, row: int) -> list[int]:
        """The tokens of a row that is being written."""
        return self._tokens[row, : self._size[row]].tolist()

    @torch.no_grad()
    def steps(self) -> Iterator[list[Written]]:
        """After each draw, the completions that it ended."""
        while True:
            while self._memory.count < self._rows and self._queue:
                self._put(self._memory.count)
            count = self._memory.count
            if not count:
                return
            fresh = np.flatnonzero(self._size[:count] == 0)
            if len(fresh):
                rows = fresh
                logits = torch.stack([self._prompts[row].logits for row in rows])
            else:
                rows = np.arange(count)
                last = self._tokens[rows, self._size[:count] - 1]
                logits = self._decoder.step(torch.from_numpy(last).to(self._device), self._memory)
            yield self._write(rows, logits)

    def _put(self, row: int) -> None:
        """The next completion of the queue begins in this row."""
        wanted, prompt = self._queue.take()
        self._memory.put(row, prompt)
        self._wanted[row : row + 1] = [wanted]
        self._prompts[row : row + 1] = [prompt]
        self._streams[row] = streams(self._seed, [wanted.key], [wanted.number])[0]
        self._size[row] = 0
        if self._history is not None:
            self._history[row] = prompt.tokens[0]
            self._history[row, : prompt.length] = torch.tensor(prompt.tokens)

    def _drop(self, row: int) -> None:
        """The row is over and nothing waits: the last one takes its place."""
        last = self._memory.count - 1
        self._memory.drop(row)
        self._wanted[row], self._prompts[row] = self._wanted[last], self._prompts[last]
        self._wanted.pop()
        self._prompts.pop()
        for array in (self._streams, self._size, self._tokens, self._logprobs, self._history):
            if array is not None:
                array[row] = array[last]

    def _write(self, rows: np.ndarray, logits: Tensor) -> list[Written]:
        """Draws a token for each of these rows, and takes out those that it ends."""
        sizes = self._size[rows]
        randoms = torch.from_numpy(uniforms(self._streams[rows], sizes))
        history = None
        if self._history is not None:
            index = torch.from_numpy(rows).to(self._device)
            history = self._history[index]
        drawn, drawn_logprobs = draw(logits, self._params, randoms, history)
        if self._history is not None:
            lengths = torch.tensor([self._prompts[row].length for row in rows])
            self._history[index, (lengths + torch.from_numpy(sizes)).to(self._device)] = drawn
        tokens, logprobs = drawn.cpu().numpy(), drawn_logprobs.cpu().numpy()
        require_numbers(logprobs)
        self._tokens[rows, sizes] = tokens
        self._logprobs[rows, sizes] = logprobs
        self._size[rows] = sizes = sizes + 1
        stopped = np.isin(tokens, self._ends.tokens)
        if self._params.stop:
            for i, row in enumerate(rows):
                stopped[i] = stopped[i] or self._ends.at_text(self.so_far(row))
        over = stopped | (sizes == self._params.max_tokens)
        # from the end, so that a row that takes another's place is never one of those still to be looked at
        return [self._finish(int(rows[i]), bool(stopped[i])) for i in np.flatnonzero(over)[::-1]]

    def _finish(self, row: int, stopped: bool) -> Written:
        size = self._size[row]
        written = Written(
            place=self._wanted[row].place,
            tokens=tuple(self._tokens[row, :size].tolist()),
            logprobs=tuple(self._logprobs[row, :size].tolist()),
            finish_reason="stop" if stopped else "length",
        )
        if self._queue:
            self._put(row)
        else:
            self._drop(row)
        return written
