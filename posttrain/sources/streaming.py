"""Batches from a dataset that is read while it is trained; a buffer of rows is all that is in memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from posttrain.data.streaming import Placed, RowStream
from posttrain.errors import CheckpointError, DataError
from posttrain.sources.settings import require_same
from posttrain.types import Batch, Metrics, Segment

Numbered = tuple[int, Placed]  # a row, and its number in the pass


class StreamingSource:
    """Full steps of `rows_per_step` over all processes; where a pass ends within a step, the next one begins.

    Of the rows read, every `world_size`-th is this process's. They are drawn from a buffer of `buffer` rows, in which
    the next one takes the place of the one drawn; a buffer of 1 keeps their order. Where a run stands is the number of
    rows read, which of them wait, and the generator's state: a resumed run reads the pass again up to there.
    """

    def __init__(
        self,
        stream: RowStream,
        build: Callable[[Sequence[Segment]], Batch],
        *,
        rows_per_step: int,
        seed: int,
        buffer: int,
        rank: int = 0,
        world_size: int = 1,
        identity: str = "",
    ) -> None:
        self._stream, self._build = stream, build
        self._needed = rows_per_step // world_size
        self._seed, self._size = seed, max(buffer, 1)
        self._rank, self._world_size = rank, world_size
        self._settings = {
            "stream": stream.source,
            "reference model": identity,
            "rows per step": rows_per_step,
            "seed of the order": seed,
            "shuffle_buffer_size": self._size,
        }
        self._step, self._pass = 0, 0
        self._left: list[int] = []  # the steps after which a pass was left early
        self._pending: deque[tuple[int, int, Segment]] = deque()  # row, which of its trees, the tree
        self._dropped, self._seen = 0, 0  # rows of this step that could not be trained; trees of this pass
        self._begin()

    def _begin(self) -> None:
        """Opens the pass at hand at its first row."""
        self._rows: Iterator[Placed] = self._stream.open()
        self._read = 0
        self._buffer: list[Numbered] = []
        self._undone: list[Numbered] = []  # drawn, and not yet made into trees: where that fails they are still there
        self._digest = 0  # of the rows that were made into trees, in any order
        self._generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._pass) * 1_009 + self._rank)
        self._seen = 0

    @property
    def epoch(self) -> float:
        """Passes begun before this one; how far it is cannot be known."""
        return float(self._pass)

    @property
    def given(self) -> int:
        """Steps given out so far."""
        return self._step

    def next(self) -> Batch:
        """This process's share of the next step."""
        return self._build(self._trees())

    def _trees(self) -> list[Segment]:
        self._dropped = 0
        while len(self._pending) < self._needed:
            self._draw(self._needed - len(self._pending))
            if not self._undone:
                if not self._seen:
                    raise DataError(f"{self._stream.source}: a whole pass had no row that can be trained.")
                self._pass += 1
                self._begin()
                continue
            made = self._stream.trees([placed for _, placed in self._undone])
            for (number, placed), trees in zip(self._undone, made):
                self._pending += [(number, index, tree) for index, tree in enumerate(trees)]
                self._digest += _hash(number, placed)
                self._dropped += not trees
                self._seen += len(trees)
            self._undone = []
        self._step += 1
        return [self._pending.popleft()[2] for _ in range(self._needed)]

    def _draw(self, count: int) -> None:
        """Draws until so many rows of this pass are undone, or none is left."""
        while len(self._undone) < count:
            while len(self._buffer) < self._size and (found := self._take()) is not None:
                self._buffer.append(found)
            if not self._buffer:
                break
            following = self._take()  # before anything is moved: reading may fail
            place = int(torch.randint(len(self._buffer), (1,), generator=self._generator)) if self._size > 1 else 0
            self._undone.append(self._buffer[place])
            if following is not None:
                self._buffer[place] = following
            else:
                self._buffer.pop(place)

    def _take(self) -> Numbered | None:
        """The next row of this process, None at the end of the pass."""
        for placed in self._rows:
            number, self._read = self._read, self._read + 1
            if number % self._world_size == self._rank:
                return number, placed
        return None

    def end_epoch(self) -> None:
        """Leaves out what is left of the pass."""
        self._left.append(self._step)
        self._pass += 1
        self._pending.clear()
        self._begin()

    def metrics(self) -> Metrics:
        """Rows of the last step that could not be trained."""
        return {"dropped_rows": (float(self._dropped), 1.0)}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """A dataset does not change with the training."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "settings": self._settings,
            "step": self._step,
            "pass": self._pass,
            "left": list(self._left),
            "read": self._read,
            "seen": self._seen,
            "buffer": [number for number, _ in self._buffer],
            "undone": [number for number, _ in self._undone],
            "pending": [(number, index) for number, index, _ in self._pending],
            "generator": self._generator.get_state(),
            "digest": f"{self._digest:x}",
            # each process stands elsewhere, and one writes the checkpoint: the others find their place by reading
            "steps_alone": self._world_size == 1,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError where the stream, up to where the run stood, is not what it was."""
        require_same(self._settings, state["settings"])
        if not state["steps_alone"]:
            self._replay(int(state["step"]), state["left"])
            return
        self._step, self._pass, self._left = state["step"], state["pass"], list(state["left"])
        self._pending.clear()
        self._begin()
        untouched = {*state["buffer"], *state["undone"]}  # these may be mended
        waiting = {*untouched, *(number for number, _ in state["pending"])}
        kept: dict[int, Placed] = {}
        while self._read < state["read"] and (found := self._take()) is not None:
            if found[0] in waiting:
                kept[found[0]] = found[1]
            if found[0] not in untouched:
                self._digest += _hash(*found)
        if self._read != state["read"] or f"{self._digest:x}" != state["digest"]:
            raise CheckpointError(
                f"the run cannot be resumed: of the first {state['read']:,} rows of {self._stream.source} those that "
                "were trained are not what they were. Put them back, or start a new run with the checkpoint as its "
                "model."
            )
        self._buffer = [(number, kept[number]) for number in state["buffer"]]
        self._undone = [(number, kept[number]) for number in state["undone"]]
        self._generator.set_state(state["generator"])
        self._seen = state["seen"]
        owners = list(dict.fromkeys(number for number, _ in state["pending"]))
        made = dict(zip(owners, self._stream.trees([kept[number] for number in owners]))) if owners else {}
        self._pending += [(number, index, made[number][index]) for number, index in state["pending"]]

    def _replay(self, steps: int, left: Sequence[int]) -> None:
        """Reads and renders everything up to this step again, and leaves the passes that were left."""
        for step in left:
            while self._step < step:
                self._trees()
            self.end_epoch()
        while self._step < steps:
            self._trees()


def _hash(number: int, placed: Placed) -> int:
    return int.from_bytes(hashlib.blake2b(f"{number} {placed[1]!r}".encode(errors="replace"), digest_size=16).digest())
