"""What online training's metrics show to be going wrong, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from posttrain.engine.alarms import Alarm
from posttrain.engine.history import WINDOW, Entries, first_and_last, mean, raised
from posttrain.sources.damage import DAMAGE
from posttrain.sources.hacking import hacking


class OnlineGuards:
    """Alarms by name, from the log history alone: `ALARMS` says which there are."""

    def __init__(
        self, *, max_kl: float | None = None, learned: Sequence[str] = (), checked: Sequence[str] = ()
    ) -> None:
        """`learned` and `checked` are the names of rewards that a model gives, and that look at the answer itself."""
        self._max_kl, self._learned, self._checked = max_kl, learned, checked

    def __call__(self, history: Entries) -> list[Alarm]:
        """What is wrong after the last entry and was not said lately."""
        entries = [entry for entry in history if "reward" in entry]
        own = {name: partial(look, entries, self._max_kl) for name, look in ONLINE.items()}
        own["reward_hacking"] = partial(hacking, entries, self._learned, self._checked)
        everything = [entry for entry in history if "alarm" not in entry]
        return raised(history, entries, own | {name: partial(look, everything) for name, look in DAMAGE.items()})


def _entropy(entries: Entries, max_kl: float | None) -> str | None:
    pair = first_and_last(entries, "entropy")
    if pair is None or pair[1] > 0.2 * pair[0]:
        return None
    return (
        f"the entropy fell from {pair[0]:.2f} to {pair[1]:.2f} nats a token: the policy hardly tries anything new. "
        "Raise entropy_coef (in GRPO, epsilon_high), lower the learning rate, or stop here."
    )


def _length(entries: Entries, max_kl: float | None) -> str | None:
    lengths = first_and_last(entries, "completions/mean_length")
    rewards = first_and_last(entries, "reward")
    if lengths is None or rewards is None or lengths[1] < 1.5 * lengths[0] or rewards[1] > rewards[0]:
        return None
    return (
        f"completions grew from {lengths[0]:.0f} to {lengths[1]:.0f} tokens while the reward did not "
        f"({rewards[0]:.2f} to {rewards[1]:.2f}). Add a reward for length, or in GRPO use loss_type='dr_grpo'."
    )


def _kl(entries: Entries, max_kl: float | None) -> str | None:
    kl = mean([entry for entry in entries if "kl" in entry][-1:], "kl")
    if max_kl is None or kl is None or kl <= max_kl:
        return None
    return (
        f"the KL to the starting model is {kl:.3g} nats a token, over max_kl={max_kl:g}. Raise its weight (beta, "
        "in PPO kl_coef), lower the learning rate, or take an earlier checkpoint."
    )


def _signal(entries: Entries, max_kl: float | None) -> str | None:
    idle = mean(entries[-WINDOW:], "frac_reward_zero_std")
    if len(entries) < WINDOW or idle is None or idle < 1:
        return None
    reward = mean(entries[-WINDOW:], "reward") or 0.0
    return (
        f"no group had completions with different rewards (mean reward {reward:.2f}), so nothing was learned. The "
        "prompts are too hard or too easy for this model: choose others, or in GRPO set dynamic_sampling=True."
    )


def _truncation(entries: Entries, max_kl: float | None) -> str | None:
    share = mean(entries[-WINDOW:], "completions/clipped_ratio")
    if len(entries) < WINDOW or share is None or share <= 0.5:
        return None
    return (
        f"{share:.0%} of the completions reached max_completion_length without an end. Raise it, or set "
        "mask_truncated_completions=True so that being cut off is not taken for being wrong."
    )


def _repetition(entries: Entries, max_kl: float | None) -> str | None:
    share = mean(entries[-WINDOW:], "completions/repetition")
    pair = first_and_last(entries, "completions/repetition")
    if share is None or pair is None or share < max(0.3, 2 * pair[0]):
        return None
    return f"{share:.0%} of what is written repeats itself, at the start it was {pair[0]:.0%}. Read samples.jsonl."


def _unjudged(entries: Entries, max_kl: float | None) -> str | None:
    share = mean(entries[-WINDOW:], "rewards/unjudged")
    if share is None or share <= 0.1:
        return None
    return (
        f"{share:.0%} of the completions could not be judged: a verifier timed out or died, or no reward applies. "
        "They are left out of their groups; give the verifier more time or mend it."
    )


ONLINE: Mapping[str, Callable[[Entries, float | None], str | None]] = {
    "entropy": _entropy,
    "length": _length,
    "kl": _kl,
    "signal": _signal,
    "truncation": _truncation,
    "repetition": _repetition,
    "unjudged": _unjudged,
}

ALARMS = (*ONLINE, "reward_hacking", *DAMAGE)
