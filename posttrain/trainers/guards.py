"""What the log of a training on a dataset shows to be going wrong, in words."""

from __future__ import annotations

from functools import partial

from posttrain.engine.alarms import Alarm
from posttrain.engine.history import WINDOW, Entries, mean, raised
from posttrain.sources.damage import DAMAGE

DISPLACED_NATS = 3.0  # that the likelier answer of a pair lost: it is a twentieth as likely
DISPLACED_SHARE = 0.25  # of its own log-probability, for answers so long that a few nats are nothing


ALARMS = ("displacement", *DAMAGE)


class OfflineGuards:
    """The alarms `ALARMS`, from the log history alone. `beta` is that of DPO."""

    def __init__(self, *, beta: float | None = None) -> None:
        self._beta = beta

    def __call__(self, history: Entries) -> list[Alarm]:
        """What is wrong after the last entry and was not said lately."""
        entries = [entry for entry in history if "alarm" not in entry]
        steps = [entry for entry in entries if "learning_rate" in entry]
        looks = {name: partial(look, entries) for name, look in DAMAGE.items()}
        return raised(history, steps, {"displacement": partial(_displacement, entries, self._beta), **looks})


def fallen(chosen: float, rejected: float, chosen_reward: float, rejected_reward: float, beta: float) -> float:
    """How much less likely than the reference the policy finds the likelier one of two answers, in nats.

    max(log p_ref(c), log p_ref(r)) - max(log p(c), log p(r)), with log p_ref(y) = log p(y) - reward(y) / beta. What
    both lose, other answers have gained.
    """
    return max(chosen - chosen_reward / beta, rejected - rejected_reward / beta) - max(chosen, rejected)


def _displacement(entries: Entries, beta: float | None) -> str | None:
    last = [entry for entry in entries if "logps/chosen" in entry][-WINDOW:]
    if beta is None or len(last) < WINDOW:
        return None
    falls = []
    for entry in last:
        chosen, rejected = entry["logps/chosen"], entry["logps/rejected"]
        fall = fallen(chosen, rejected, entry["rewards/chosen"], entry["rewards/rejected"], beta)
        before = max(chosen, rejected) + fall
        if entry["rewards/margins"] <= 0 or fall < max(DISPLACED_NATS, DISPLACED_SHARE * -before):
            return None
        falls.append(fall)
    gained, lost, margin = (mean(last, f"rewards/{side}") or 0.0 for side in ("chosen", "rejected", "margins"))
    rose = "fell" if gained < 0 else "rose"
    return (
        f"the margin grew to {margin:.2f} while both answers of a pair became unlikely: the likelier one fell by "
        f"{sum(falls) / WINDOW:.1f} nats (chosen {rose} by {abs(gained / beta):.1f}, rejected fell by "
        f"{-lost / beta:.1f}). What they lost, answers that are in no pair have gained: read what the model writes; "
        f"rewards/accuracies is {mean(last, 'rewards/accuracies'):.2f} and does not show it. Add a likelihood term "
        "(loss_type: [sigmoid, sft]) or lower the learning rate."
    )
