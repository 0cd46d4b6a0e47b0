"""Batches from a dataset that is there before the training starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from posttrain.data.per_source import Share
from posttrain.sources.mixing import mixed_order
from posttrain.sources.settings import require_same
from posttrain.types import Batch, Metrics, Segment


class OfflineSource:
    """Passes over the trees, `rows_per_step` at a time over all processes; the last step of an epoch may be smaller.

    The order of an epoch depends on the seed and the epoch alone, so where a run stands is two numbers.
    """

    def __init__(
        self,
        trees: Sequence[Segment],
        build: Callable[[Sequence[Segment]], Batch],
        *,
        rows_per_step: int,
        seed: int,
        strategy: str = "random",
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        identity: str = "",
        rewards: str = "",
        shares: Sequence[Share] = (),
        lengths: Sequence[float] | None = None,
        skip_seen: bool = True,
    ) -> None:
        """`identity` and `rewards` name what the batches depend on beside the tokens: a reference model, weights.

        `shares` says of a mixture whose trees are whose, and how many of each an epoch has; `lengths` what
        group_by_length sorts by, if not the trees' tokens. Without `skip_seen` a resumed run begins its epoch anew.
        """
        self._lengths = [tree.size for tree in trees] if lengths is None else lengths
        self._skip_seen = skip_seen
        self._trees = trees
        self._build = build
        self._rows = rows_per_step
        self._seed = seed
        self._strategy = strategy
        self._rank, self._world_size = rank, world_size
        self._settings = {
            "training data": _content(trees),
            "reference model": identity,
            "rows per step": rows_per_step,
            "seed of the order": seed,
            "order of the rows": strategy,
            "dataloader_drop_last": drop_last,
            **({"set of rewards": rewards} if rewards else {}),
            **({"column of lengths": _digest(map(float, lengths))} if lengths is not None else {}),
            **({"mixture": [share.per_epoch for share in shares]} if shares else {}),
        }
        self._shares = shares
        rows = sum(share.per_epoch for share in shares) or len(trees)
        self.steps_per_epoch = steps_per_epoch(rows, rows_per_step, drop_last)
        self._step = 0  # steps given out so far

    @property
    def epoch(self) -> float:
        return self._step / self.steps_per_epoch

    @property
    def given(self) -> int:
        """Steps given out so far, those of an earlier part of the run included."""
        return self._step

    def next(self) -> Batch:
        """This process's share of the next step: every `world_size`-th row."""
        return self.take()()

    def take(self) -> Callable[[], Batch]:
        """What lays out the next step's batch; the source is past it already."""
        epoch, place = divmod(self._step, self.steps_per_epoch)
        if place == 0 or not hasattr(self, "_order"):
            self._order = self._epoch_order(epoch)
        rows = self._order[place * self._rows : (place + 1) * self._rows]
        self._step += 1
        mine = rows[self._rank :: self._world_size]
        return lambda: self._lay(mine, rows[0])

    def _lay(self, mine: Sequence[int], any_row: int) -> Batch:
        if mine:
            return self._build([self._trees[i] for i in mine])
        spare = self._build([self._trees[any_row]]).nothing()
        spare.units.update(dict.fromkeys(spare.units, 0.0))
        return spare

    def _epoch_order(self, epoch: int) -> list[int]:
        if self._shares:
            order = mixed_order(self._shares, self._strategy, self._seed, epoch)
        else:
            order = epoch_order(len(self._trees), self._strategy, self._seed, epoch)
        if self._strategy == "group_by_length":
            # the longest first within runs of fifty steps: rows of like length meet, and memory is tried early
            run = 50 * self._rows
            runs = [order[i : i + run] for i in range(0, len(order), run)]
            order = [i for part in runs for i in sorted(part, key=lambda i: -self._lengths[i])]
        return order

    def end_epoch(self) -> None:
        """Leaves out what is left of the epoch; nothing, where one has just ended."""
        self._step = math.ceil(self._step / self.steps_per_epoch) * self.steps_per_epoch

    def metrics(self) -> Metrics:
        """A dataset has nothing to report."""
        return {}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """A dataset does not change with the training."""

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "settings": self._settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError, naming what differs, when the batches would not be those that the run began with."""
        require_same(self._settings, state["settings"])
        self.go_to(state)
        if not self._skip_seen:
            self._step -= self._step % self.steps_per_epoch

    def go_to(self, state: Mapping[str, Any]) -> None:
        """Stands where the state of this same source was taken."""
        self._step = state["step"]
        self._order = self._epoch_order(self._step // self.steps_per_epoch)


def epoch_order(rows: int, strategy: str, seed: int, epoch: int) -> list[int]:
    """The order of the rows in an epoch: as they are, or shuffled by the seed and the epoch."""
    if strategy == "sequential":
        return list(range(rows))
    # a seed's second epoch must not be the next seed's first: seeds are compared with each other
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()


def steps_per_epoch(rows: int, rows_per_step: int, drop_last: bool) -> int:
    """Steps of one pass over the data."""
    return rows // rows_per_step if drop_last else math.ceil(rows / rows_per_step)


def _digest(values: Iterable[float]) -> str:
    return hashlib.blake2b(repr(list(values)).encode(), digest_size=16).hexdigest()


def _content(trees: Sequence[Segment]) -> str:
    """A hash of the trees' tokens, of what is trained of them, and of the weights that their messages give them."""
    digest = hashlib.blake2b(digest_size=16)
    for tree in trees:
        digest.update(repr(tree.shape()).encode())
        for leaf in tree.leaves():
            if "weight" in leaf.columns:
                digest.update(repr(list(leaf.columns["weight"])).encode())
    return digest.hexdigest()
