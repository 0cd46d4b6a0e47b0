"""The order of an epoch that takes so many rows of each of several sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from posttrain.data.per_source import Share


def mixed_order(shares: Sequence[Share], strategy: str, seed: int, epoch: int) -> list[int]:
    """The trees of an epoch: exactly `per_epoch` of each source, shuffled together, or in turn if "sequential".

    A source goes through all of its rows, in an order of its own, before it begins again, from one epoch to the next.
    """
    picks = [_picked(share, number, strategy, seed, epoch) for number, share in enumerate(shares)]
    if strategy == "sequential":
        return _in_turn(picks)
    together = [place for picked in picks for place in picked]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return [together[i] for i in torch.randperm(len(together), generator=generator).tolist()]


def _picked(share: Share, number: int, strategy: str, seed: int, epoch: int) -> list[int]:
    """A source's trees of this epoch, in the order in which it gives them."""
    size, wanted = share.end - share.begin, share.per_epoch
    start = epoch * wanted
    picked: list[int] = []
    while len(picked) < wanted:
        turn, place = divmod(start + len(picked), size)
        order = range(size) if strategy == "sequential" else _shuffled(size, seed, number, turn)
        picked += [share.begin + i for i in order[place : place + wanted - len(picked)]]
    return picked


def _shuffled(size: int, seed: int, number: int, turn: int) -> list[int]:
    # neither a seed's second turn nor its second source may be what the next seed has first
    generator = torch.Generator().manual_seed((seed * 1_000_003 + turn) * 1_009 + number + 1)
    return torch.randperm(size, generator=generator).tolist()


def _in_turn(picks: Sequence[Sequence[int]]) -> list[int]:
    """All of them, each source's spread evenly: the i-th of n stands at (i + 1/2) / n of the whole."""
    placed = [((i + 0.5) / len(picked), n, place) for n, picked in enumerate(picks) for i, place in enumerate(picked)]
    return [place for _, _, place in sorted(placed)]
