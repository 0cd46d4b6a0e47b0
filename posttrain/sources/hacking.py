"""A learned reward that is fooled: it rises, or stays up, while what is checked does not (arXiv:2210.10760)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from posttrain.engine.history import WINDOW, Entries

RISE = 0.5  # of the deviation between completions at the start, from which on a reward has risen
STILL = 0.1  # of the same, up to which it has not
FALL = 0.25  # of the same, from which on it has fallen from its best


def hacking(entries: Entries, learned: Sequence[str], checked: Sequence[str]) -> str | None:
    """What is wrong, where a learned reward went up and a checked one, with or without a weight, did not.

    Either it never rose, or it fell from its best while the learned one stayed where it was or rose further.
    """
    for name in learned:
        for check in checked:
            both = [e for e in entries if f"rewards/{name}/mean" in e and f"rewards/{check}/mean" in e]
            if len(both) < 2 * WINDOW:
                continue
            liked, right = ([float(e[f"rewards/{one}/mean"]) for e in both] for one in (name, check))
            started = _fooled(liked, right, _deviation(both, name), _deviation(both, check))
            if started is None:
                continue
            was, now = slice(started, started + WINDOW), slice(-WINDOW, None)
            return (
                f"the learned reward {name!r} went from {fmean(liked[was]):.2f} to {fmean(liked[now]):.2f} while "
                f"{check!r}, which checks, went from {fmean(right[was]):.2f} to {fmean(right[now]):.2f}: the policy "
                "does what the reward model takes for good. Read samples.jsonl, take an earlier checkpoint, and raise "
                f"the KL's weight, train the reward model on such answers, or give {check!r} a weight."
            )
    return None


def _fooled(liked: Sequence[float], right: Sequence[float], spread: float, spread_right: float) -> int | None:
    """The entry from which on the two went apart, or None."""
    last, last_right = fmean(liked[-WINDOW:]), fmean(right[-WINDOW:])
    rise, rise_right = last - fmean(liked[:WINDOW]), last_right - fmean(right[:WINDOW])
    if spread and rise >= RISE * spread and rise_right <= STILL * spread_right:
        return 0
    starts = range(len(right) - 2 * WINDOW + 1)
    best = max(starts, key=lambda i: fmean(right[i : i + WINDOW]))
    then = right[best : best + WINDOW]
    fell = spread_right and fmean(then) - last_right >= FALL * spread_right and max(right[-WINDOW:]) < min(then)
    stayed = last - fmean(liked[best : best + WINDOW]) >= -STILL * spread
    return best if fell and stayed else None


def _deviation(entries: Entries, name: str) -> float:
    """Between completions, in the first entries that have it."""
    found = [float(e[f"rewards/{name}/std"]) for e in entries if f"rewards/{name}/std" in e]
    return fmean(found[:WINDOW]) if found else 0.0
