"""Signs in the log of a training, online or not, that it undoes or breaks what the model could do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean, median

from posttrain.engine.history import WINDOW, Entries, mean

RETENTION = "retention/"  # prefix of a task's score, 0 to 1; the number of its questions is beside it, ending in /n
MAX_FALL = 0.05  # of a retention score below its peak, or more where few questions measure it
SHARE_OF_CHANGES = 0.2  # of answers that another checkpoint answers otherwise: what the noise of a score is taken from
EVAL_LOSS_RISE = 1.1  # times its lowest
JUMP = 3.0  # times the median of the gradient norm so far
WORSE = 1.2  # times the eval_loss before training
BROKEN = {  # a share of the answers, or of what they say, from which on they count as broken
    "generation/repetition": (0.3, "{:.0%} of what is written repeats itself"),
    "generation/clipped_ratio": (0.5, "{:.0%} of the answers do not come to an end"),
    "generation/empty": (0.1, "{:.0%} of the answers are empty"),
}
BROKEN_MARGIN = 0.1  # above what it was before training: what the start could not do, training did not break


def instability(entries: Entries) -> str | None:
    steps = [entry for entry in entries if "learning_rate" in entry]
    if skipped := mean(steps[-1:], "nonfinite_steps"):
        what = f"{skipped:.0%} of the last steps had a loss or a gradient that is not finite and were skipped"
    elif (worse := _worse_than_at_the_start(entries)) or (
        worse := _shaken([e for e in steps if "grad_norm" in e and _progress(steps)[0] in e])
    ):
        what = worse
    else:
        return None
    return f"{what}. Lower the learning rate, or give it a warm-up (warmup_steps)."


def _worse_than_at_the_start(entries: Entries) -> str | None:
    losses = [entry for entry in entries if "eval_loss" in entry]
    if not losses or losses[0]["step"] > 0 or losses[0]["eval_loss"] <= 0:  # a share of a negative loss says nothing
        return None
    if losses[-1]["eval_loss"] <= WORSE * losses[0]["eval_loss"]:
        return None
    return f"eval_loss is {losses[-1]['eval_loss']:.3g} and was {losses[0]['eval_loss']:.3g} before training"


def _shaken(steps: Entries) -> str | None:
    what, sign = _progress(steps)
    steps = [entry for entry in steps if "grad_norm" in entry and what in entry]
    if len(steps) < 3 * WINDOW:
        return None
    window = max(WINDOW, len(steps) // 6)  # longer in a long run, in which the lowest of many means would be by chance
    raw = [sign * float(entry[what]) for entry in steps]
    losses = [sum(raw[i : i + window]) / window for i in range(len(raw) - window + 1)]
    lowest, rise = min(losses), losses[-1] - min(losses)
    # An entry's noise from how far it lies off its neighbours' middle, which a trend does not enlarge: the mean of
    # |a - 2 b + c| is 1.95 standard deviations where they are normal.
    bends = [abs(a - 2 * b + c) for a, b, c in zip(raw, raw[1:], raw[2:])]
    noise = fmean(bends) / 1.95 * (2 / window) ** 0.5  # of the difference of two windows
    if rise > max(0.4 * abs(lowest), 0.2 * abs(losses[0]), 4 * noise):
        return f"the {what} is {sign * losses[-1]:.3g} and has been {sign * lowest:.3g}: training undoes what it did"
    norms = [float(entry["grad_norm"]) for entry in steps]
    usual, now = median(norms[:-WINDOW]), min(norms[-WINDOW:])
    if rise > 0 and now > max(JUMP * usual, *norms[:WINDOW]):
        return f"the gradient norm is {now:.3g} and was {usual:.3g} before, while the {what} no longer {_BETTER[sign]}"
    return None


def over_optimisation(entries: Entries) -> str | None:
    for name in sorted({key for entry in entries for key in entry if key.startswith(RETENTION)}):
        if not name.endswith("/n") and (text := _retention_fell(entries, name)):
            return text
    return _eval_loss_rose(entries)


def _retention_fell(entries: Entries, name: str) -> str | None:
    scores = [entry for entry in entries if name in entry]
    peak, last = max(scores, key=lambda entry: entry[name]), scores[-1]
    questions = last.get(f"{name}/n")
    noise = 2 * (SHARE_OF_CHANGES / questions) ** 0.5 if questions else 0.0
    went_on = _still_improving(entries, peak["step"])
    if not went_on or peak[name] - last[name] <= max(MAX_FALL, noise):
        return None
    return (
        f"{name.removeprefix(RETENTION)} fell from {peak[name]:.2f} at step {peak['step']} to {last[name]:.2f}, while "
        f"{went_on}: training goes on paying with what the model could do. Take the checkpoint of step "
        f"{peak['step']}, train for less, lower the learning rate or mix in data of the kind that is lost."
    )


def _eval_loss_rose(entries: Entries) -> str | None:
    losses = [entry for entry in entries if "eval_loss" in entry]
    if len(losses) < 3:
        return None
    lowest = min(losses, key=lambda entry: entry["eval_loss"])
    went_on = _still_improving(entries, lowest["step"])
    limit = lowest["eval_loss"] * EVAL_LOSS_RISE
    if not went_on or lowest["eval_loss"] <= 0 or min(entry["eval_loss"] for entry in losses[-2:]) <= limit:
        return None
    return (
        f"eval_loss rose from {lowest['eval_loss']:.3g} at step {lowest['step']} to {losses[-1]['eval_loss']:.3g}, "
        f"while {went_on}: what is learned now no longer carries over. Take the checkpoint of step {lowest['step']}, "
        "or train for fewer epochs."
    )


def _still_improving(entries: Entries, since: int) -> str | None:
    """How the training went on making its loss smaller, or its reward larger, after a step; None if it did not."""
    what, sign = _progress(entries)
    steps = [entry for entry in entries if what in entry]
    before = [entry for entry in steps if entry["step"] <= since][-WINDOW:] or steps[:1]
    then, now = mean(before, what), mean(steps[-WINDOW:], what)
    if then is None or now is None or sign * now >= sign * then:
        return None
    return f"the training {what} {_MOVED[sign]} from {then:.3g} to {now:.3g}"


_BETTER, _MOVED = {1: "falls", -1: "rises"}, {1: "fell", -1: "rose"}


def _progress(entries: Entries) -> tuple[str, int]:
    """What training improves, and the sign that makes less of it better: a policy loss says nothing of progress."""
    return ("reward", -1) if any("reward" in entry for entry in entries) else ("loss", 1)


def broken_text(entries: Entries) -> str | None:
    measured = [entry for entry in entries if any(name in entry for name in BROKEN)]
    if not measured or measured[-1]["step"] == 0:
        return None
    start = measured[0] if measured[0]["step"] == 0 else {}
    last, wrong = measured[-1], []
    for name, (limit, words) in BROKEN.items():
        share = last.get(name, 0.0)
        if share >= limit and share > start.get(name, 0.0) + BROKEN_MARGIN:
            wrong.append(words.format(share))
    if not wrong:
        return None
    return (
        f"{' and '.join(wrong)}, which was not so at the start. Loss and accuracy do not show this: read the answers, "
        "and take an earlier checkpoint, a lower learning rate or, in DPO, a likelihood term."
    )


DAMAGE: Mapping[str, Callable[[Entries], str | None]] = {
    "instability": instability,
    "over_optimisation": over_optimisation,
    "broken_text": broken_text,
}
