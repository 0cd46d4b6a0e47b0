"""What online training's metrics show to be going wrong, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.engine.alarms import Alarm

WINDOW = 3  # log entries that are looked at together, so that one odd rollout raises nothing
AGAIN_AFTER = 10  # log entries until an alarm that goes on is raised again

Entries = Sequence[Mapping[str, Any]]


class OnlineGuards:
    """Alarms by name, from the log history alone: `ALARMS` says which there are."""

    def __init__(self, *, max_kl: float | None = None) -> None:
        self._max_kl = max_kl

    def __call__(self, history: Entries) -> list[Alarm]:
        """What is wrong after the last entry and was not said lately."""
        entries = [entry for entry in history if "reward" in entry]
        if not entries:
            return []
        since = entries[-AGAIN_AFTER:][0].get("step", 0)
        said = {entry["alarm"] for entry in history if "alarm" in entry and entry.get("step", 0) >= since}
        found = []
        for name, look in ALARMS.items():
            text = look(entries, self._max_kl)
            if text and name not in said:
                found.append(Alarm(name=name, text=text))
        return found


def _mean(entries: Entries, name: str) -> float | None:
    """The mean over entries that have it."""
    values = [float(entry[name]) for entry in entries if name in entry]
    return sum(values) / len(values) if values else None


def _first_and_last(entries: Entries, name: str) -> tuple[float, float] | None:
    """The means of the first and of the last few entries, once these are different ones."""
    having = [entry for entry in entries if name in entry]
    if len(having) < 2 * WINDOW:
        return None
    first, last = _mean(having[:WINDOW], name), _mean(having[-WINDOW:], name)
    return None if first is None or last is None else (first, last)


def _entropy(entries: Entries, max_kl: float | None) -> str | None:
    pair = _first_and_last(entries, "entropy")
    if pair is None or pair[1] > 0.2 * pair[0]:
        return None
    return (
        f"the entropy fell from {pair[0]:.2f} to {pair[1]:.2f} nats a token: the policy hardly tries anything new. "
        "Raise entropy_coef or epsilon_high, lower the learning rate, or stop here."
    )


def _length(entries: Entries, max_kl: float | None) -> str | None:
    lengths = _first_and_last(entries, "completions/mean_length")
    rewards = _first_and_last(entries, "reward")
    if lengths is None or rewards is None or lengths[1] < 1.5 * lengths[0] or rewards[1] > rewards[0]:
        return None
    return (
        f"completions grew from {lengths[0]:.0f} to {lengths[1]:.0f} tokens while the reward did not "
        f"({rewards[0]:.2f} to {rewards[1]:.2f}). Use loss_type='dr_grpo', or a reward for length."
    )


def _kl(entries: Entries, max_kl: float | None) -> str | None:
    kl = _mean([entry for entry in entries if "kl" in entry][-1:], "kl")
    if max_kl is None or kl is None or kl <= max_kl:
        return None
    return (
        f"the KL to the starting model is {kl:.3g} nats a token, over max_kl={max_kl:g}. Raise beta, lower the "
        "learning rate, or take an earlier checkpoint."
    )


def _signal(entries: Entries, max_kl: float | None) -> str | None:
    idle = _mean(entries[-WINDOW:], "frac_reward_zero_std")
    if len(entries) < WINDOW or idle is None or idle < 1:
        return None
    reward = _mean(entries[-WINDOW:], "reward") or 0.0
    return (
        f"no group had completions with different rewards (mean reward {reward:.2f}), so nothing was learned. The "
        "prompts are too hard or too easy for this model: choose others, or set dynamic_sampling=True."
    )


def _truncation(entries: Entries, max_kl: float | None) -> str | None:
    share = _mean(entries[-WINDOW:], "completions/clipped_ratio")
    if len(entries) < WINDOW or share is None or share <= 0.5:
        return None
    return (
        f"{share:.0%} of the completions reached max_completion_length without an end. Raise it, or set "
        "mask_truncated_completions=True so that being cut off is not taken for being wrong."
    )


def _repetition(entries: Entries, max_kl: float | None) -> str | None:
    share = _mean(entries[-WINDOW:], "completions/repetition")
    pair = _first_and_last(entries, "completions/repetition")
    if share is None or pair is None or share < max(0.3, 2 * pair[0]):
        return None
    return f"{share:.0%} of what is written repeats itself, at the start it was {pair[0]:.0%}. Read samples.jsonl."


def _unjudged(entries: Entries, max_kl: float | None) -> str | None:
    share = _mean(entries[-WINDOW:], "rewards/unjudged")
    if share is None or share <= 0.1:
        return None
    return (
        f"{share:.0%} of the completions could not be judged: a verifier timed out or died, or no reward applies. "
        "They are left out of their groups; give the verifier more time or mend it."
    )


ALARMS: Mapping[str, Callable[[Entries, float | None], str | None]] = {
    "entropy": _entropy,
    "length": _length,
    "kl": _kl,
    "signal": _signal,
    "truncation": _truncation,
    "repetition": _repetition,
    "unjudged": _unjudged,
}
