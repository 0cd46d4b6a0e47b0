"""What the log of offline reinforcement learning shows to be going wrong, beside what all trainings on data show."""

from __future__ import annotations

from functools import partial

from posttrain.engine.alarms import Alarm
from posttrain.engine.history import WINDOW, Entries, first_and_last, raised
from posttrain.trainers.guards import DISPLACED_NATS, DISPLACED_SHARE, OfflineGuards


class OfflineRLGuards:
    """The alarms of `OfflineGuards`, and those of answers that are weighted by a reward."""

    def __init__(self, *, signed: bool = False) -> None:
        """`signed`: weights may be negative, and so may the loss, which then says nothing about stability."""
        self._general = OfflineGuards()
        self._signed = signed

    def __call__(self, history: Entries) -> list[Alarm]:
        """What is wrong after the last entry and was not said lately."""
        entries = [entry for entry in history if "alarm" not in entry]
        steps = [entry for entry in entries if "learning_rate" in entry]
        looks = {"displacement": partial(_displacement, steps)}
        general = self._general(_unsigned(history) if self._signed else history)
        return [*general, *raised(history, steps, looks)]


def _unsigned(history: Entries) -> Entries:
    """The log without losses of either sign, whose rise and fall are no measure of harm."""
    return [{key: value for key, value in entry.items() if key != "eval_loss"} for entry in history]


def _displacement(steps: Entries) -> str | None:
    """The better answers have become unlikely themselves: what they and the worse ones lost, others gained."""
    better, worse = first_and_last(steps, "logps/better"), first_and_last(steps, "logps/worse")
    if better is None:
        return None
    fall = better[0] - better[1]
    if fall < max(DISPLACED_NATS, DISPLACED_SHARE * -better[0]):
        return None
    other = "" if worse is None else f" (the worse ones by {worse[0] - worse[1]:.1f})"
    return (
        f"answers with an advantage became unlikely: their log-probability fell by {fall:.1f} nats since the first "
        f"{WINDOW} log entries{other}. What both lose, answers that are not in the data gain: read what the model "
        "writes. Lower the learning rate, give beta a value, or take loss_type='topr' or 'awr'."
    )
