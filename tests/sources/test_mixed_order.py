"""The order of a mixture's epochs: exact shares in each, every row of a source before any twice, and a resumed run."""

from __future__ import annotations

from collections import Counter

import pytest

from posttrain.algorithms.sft import sft_batch
from posttrain.data.per_source import Share
from posttrain.errors import CheckpointError
from posttrain.sources.mixing import mixed_order
from posttrain.sources.offline import OfflineSource
from posttrain.types import Segment

SHARES = (
    Share(source="a", begin=0, end=10, per_epoch=4),
    Share(source="b", begin=10, end=13, per_epoch=4),  # repeated: one row twice in an epoch
)


def test_an_epoch_has_exactly_its_shares_and_a_source_goes_on_where_it_stopped():
    epochs = [mixed_order(SHARES, "random", 3, epoch) for epoch in range(5)]
    for order in epochs:
        assert len(order) == 8
        assert sum(place < 10 for place in order) == 4
    assert epochs[0] != sorted(epochs[0])
    assert len({tuple(order) for order in epochs}) == 5
    of_a = Counter(place for order in epochs for place in order if place < 10)
    assert set(of_a.values()) == {2}  # 20 draws are two passes of 10 rows
    of_b = Counter(place for order in epochs[:3] for place in order if place >= 10)
    assert set(of_b.values()) == {4}  # 12 draws are four passes of 3
    assert mixed_order(SHARES, "random", 4, 0) != epochs[0]


def test_sources_in_turn_are_spread_evenly():
    assert mixed_order(SHARES, "sequential", 0, 0) == [0, 10, 1, 11, 2, 12, 3, 10]
    assert mixed_order(SHARES, "sequential", 0, 1) == [4, 11, 5, 12, 6, 10, 7, 11]


def source(shares=SHARES, **options):
    trees = [Segment(tokens=[1, i + 1], trained=[(1, 2)]) for i in range(13)]
    return OfflineSource(trees, sft_batch, rows_per_step=3, seed=0, shares=shares, **options)


def test_a_resumed_mixture_goes_on_and_another_one_is_refused():
    whole = source()
    assert whole.steps_per_epoch == 3
    wanted = [whole.next().forest.tokens.tolist() for _ in range(8)]
    first = source()
    got = [first.next().forest.tokens.tolist() for _ in range(4)]
    second = source()
    second.load_state_dict(first.state_dict())
    assert got + [second.next().forest.tokens.tolist() for _ in range(4)] == wanted
    changed = source((SHARES[0], Share(source="b", begin=10, end=13, per_epoch=3)))
    with pytest.raises(CheckpointError, match="mixture"):
        changed.load_state_dict(first.state_dict())


def test_two_processes_share_an_epoch_of_a_mixture():
    processes = [source(rank=rank, world_size=2) for rank in range(2)]
    alone = source()
    for _ in range(3):
        parts = [process.next().forest.targets.tolist() for process in processes]
        assert sorted(parts[0] + parts[1]) == sorted(alone.next().forest.targets.tolist())
