"""A learned reward that is fooled: it rises while what is checked does not (arXiv:2210.10760)."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.engine.history import Entries, first_and_last

RISE = 0.5  # of the deviation between completions at the start, from which on a reward has risen
STILL = 0.1  # of the same, up to which it has not


def hacking(entries: Entries, learned: Sequence[str], checked: Sequence[str]) -> str | None:
    """What is wrong, where a learned reward went up and a checked one, with or without a weight, did not."""
    for name in learned:
        rise = _rise(entries, name)
        if rise is None or rise[2] < RISE * rise[3] or not rise[3]:
            continue
        for check in checked:
            other = _rise(entries, check)
            if other is None or other[2] > STILL * other[3]:
                continue
            return (
                f"the learned reward {name!r} rose from {rise[0]:.2f} to {rise[1]:.2f} while {check!r}, which checks, "
                f"went from {other[0]:.2f} to {other[1]:.2f}: the policy does what the reward model takes for good. "
                "Read samples.jsonl, take an earlier checkpoint, and raise the KL's weight, train the reward model on "
                f"such answers, or give {check!r} a weight."
            )
    return None


def _rise(entries: Entries, name: str) -> tuple[float, float, float, float] | None:
    """First and last mean, their difference, and the deviation at the start."""
    pair = first_and_last(entries, f"rewards/{name}/mean")
    spread = first_and_last(entries, f"rewards/{name}/std")
    if pair is None:
        return None
    return *pair, pair[1] - pair[0], 0.0 if spread is None else spread[0]
