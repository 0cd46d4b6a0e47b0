"""What stands in each section of the page: the numbers, worded and drawn. A section without content is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from posttrain.report import pictures
from posttrain.report.changes import Change
from posttrain.report.evaluations import Evaluation, lower_is_better, read_interval
from posttrain.report.files import number
from posttrain.report.gate import promoted
from posttrain.report.gate import roles as roles_of
from posttrain.report.subject import Subject
from posttrain.report.text import DASH, bounds, p_text, percent, points, short, signed, words
from posttrain.report.verdict import Comparison
from posttrain.stats import Interval

_SHOWN_CHECKPOINTS = 8

_DRIFT_CARDS = {
    "kl_forward": ("KL(start || now)", "nats per token; how much of what the start would say is lost"),
    "kl_reverse": ("KL(now || start)", "nats per token; how much is said that the start would not say"),
    "changed_greedy": ("Changed greedy answers", "share of likeliest answers that are no longer the same"),
}
_DRIFT_PAIRS = {"entropy": "Entropy, nats per token", "length": "Length, tokens per answer"}
_ROLES = ("target", "", "retention")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A dot with its interval, and the same in figures."""

    label: str
    picture: Markup
    value: str
    bounds: str = ""
    note: str = ""
    tone: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Card:
    """Rows on one scale."""

    title: str
    subtitle: str
    role: str  # "target", "retention" or nothing
    rows: tuple[Row, ...]
    axis: Markup


@dataclass(frozen=True, kw_only=True)
class Forest:
    """What changed between two evaluations: a card, and all numbers."""

    title: str
    card: Card
    changes: tuple[Change, ...]


def score_groups(subject: Subject) -> list[tuple[str, list[Card]]]:
    """Every task's headline at each evaluation; of a pipeline also at the checkpoints of its trainings."""
    roles = roles_of(subject.gate)
    found = [("", _score_cards(subject.evaluations, promoted(subject.gate, subject.evaluations), roles))]
    for training in subject.trainings if subject.is_pipeline else ():
        inside = [e for e in training.evaluations if e.step is not None]
        if len(inside) > 1 and not set(inside) & set(subject.evaluations):
            cards = _score_cards(inside, promoted(training.gate, inside), roles)
            found.append((f"Checkpoints of {training.name}", cards))
    return [(title, cards) for title, cards in found if cards]


def _score_cards(evaluations: Sequence[Evaluation], chosen: Evaluation | None, roles: Mapping[str, str]) -> list[Card]:
    shown = _thinned(evaluations, chosen)
    cards = []
    for task in dict.fromkeys(task for evaluation in shown for task in evaluation.headlines()):
        grader = next(e.headlines()[task][0] for e in reversed(shown) if task in e.headlines())
        found = [(e, e.scores[task][grader]) for e in shown if grader in e.scores.get(task, {})]
        shares = not lower_is_better(grader) and all(0 <= i.estimate <= 1 for _, i in found)
        scale = (0.0, 1.0) if shares else pictures.reach([i for _, i in found], zero=False)
        unit = "lower is better" if lower_is_better(grader) else f"{max(i.n for _, i in found):,} questions"
        card = Card(
            title=words(task),
            subtitle=f"{words(grader)}, {unit}",
            role=roles.get(task, ""),
            rows=tuple(_score_row(e, i, scale, shares, words(task), is_chosen=e is chosen) for e, i in found),
            axis=pictures.dot_axis(scale, is_share=shares, count=2),
        )
        cards.append(card)
    return sorted(cards, key=lambda card: _ROLES.index(card.role)) if roles else cards


def forests(comparisons: Sequence[Comparison]) -> list[Forest]:
    """What each step changed, with paired intervals."""
    found = []
    for comparison in comparisons:
        headlines = comparison.headlines()
        if not headlines:
            continue
        drawn = [change for change in headlines if change.is_share]
        intervals = [change.difference or _point(change.estimate) for change in drawn]
        scale = pictures.reach(intervals, zero=True)
        card = Card(
            title=f"{comparison.before.label} → {comparison.after.label}",
            subtitle="",
            role="",
            rows=tuple(_change_row(change, scale) for change in headlines),
            axis=pictures.dot_axis(scale, is_share=True),
        )
        found.append(Forest(title=card.title, card=card, changes=comparison.changes))
    return found


def drift_cards(subject: Subject) -> list[Card]:
    """What was measured of the distance to the start, for each set of texts."""
    measured = _with_drift(subject)
    sets = list(dict.fromkeys(name for evaluation in measured for name in evaluation.drift))
    cards = []
    for name, key in [
        *((n, k) for n in sets for k in ("kl_forward", "kl_reverse")),
        *((n, "changed_greedy") for n in sets),
    ]:
        title, about = _DRIFT_CARDS[key]
        found = [(e, i) for e in measured if (i := read_interval(e.drift.get(name, {}).get(key))) is not None]
        if found:
            shares = key == "changed_greedy"
            scale = (0.0, 1.0) if shares else pictures.reach([i for _, i in found], zero=True)
            card = Card(
                title=f"{title}, {words(name)}",
                subtitle=about,
                role="",
                rows=tuple(_score_row(e, i, scale, shares, title) for e, i in found),
                axis=pictures.dot_axis(scale, is_share=shares, count=2),
            )
            cards.append(card)
    return cards


def drift_lines(subject: Subject) -> list[dict[str, str]]:
    """Entropy and length, before and after."""
    lines = []
    for evaluation in _with_drift(subject):
        for name, one in evaluation.drift.items():
            line = {"Model": evaluation.label, "Texts": words(name)}
            for key, title in _DRIFT_PAIRS.items():
                before, after = number(one.get(f"{key}_before")), number(one.get(f"{key}_after"))
                known = before is not None and after is not None
                line[title] = f"{short(before)} → {short(after)}" if known else ""
            if any(line[title] for title in _DRIFT_PAIRS.values()):
                lines.append(line)
    return lines


def _with_drift(subject: Subject) -> list[Evaluation]:
    inside = [e for training in subject.trainings for e in training.evaluations if subject.is_pipeline]
    found = [e for e in dict.fromkeys([*subject.evaluations, *inside]) if e.drift]
    return _thinned(found, None)


def logged_kl(subject: Subject) -> list[tuple[str, str]]:
    """(training, the last KL that its log has)."""
    found = []
    for training in subject.trainings:
        values = [value for line in training.lines if (value := number(line.get("kl"))) is not None]
        if values:
            found.append((training.name, short(values[-1])))
    return found


def change_cells(change: Change) -> dict[str, str]:
    """A change in figures, for the table of all numbers."""
    show = percent if change.is_share else short
    difference = change.difference
    return {
        "Task": f"{words(change.task)}, {words(change.grader)}",
        "Before": show(change.before.estimate),
        "After": show(change.after.estimate),
        "Change": points(change.estimate) if change.is_share else signed(change.estimate),
        "95% interval": bounds(difference, change.is_share, signed=True) if difference is not None else DASH,
        "Better, worse": f"{len(change.gained)}, {len(change.lost)}" if change.p_value is not None else DASH,
        "Questions": f"{difference.n if difference is not None else change.after.n:,}",
        "p": p_text(change.p_value),
        "p (Holm)": p_text(change.p_holm),
    }


def _thinned(found: Sequence[Evaluation], chosen: Evaluation | None) -> list[Evaluation]:
    """The evaluations, or of many the first, the promoted one, the last and some between."""
    if len(found) <= _SHOWN_CHECKPOINTS:
        return list(found)
    steps = {i * (len(found) - 1) // (_SHOWN_CHECKPOINTS - 1) for i in range(_SHOWN_CHECKPOINTS)}
    return [e for i, e in enumerate(found) if i in steps or e is chosen]


def _score_row(
    evaluation: Evaluation, interval: Interval, scale: tuple[float, float], shares: bool, name: str, *,
    is_chosen: bool = False,
) -> Row:  # fmt: skip
    value = percent(interval.estimate) if shares else short(interval.estimate)
    between = bounds(interval, shares)
    text = f"{name}, {evaluation.label}{', promoted' if is_chosen else ''}: {value}"
    text += f", interval {between}" if between else ""
    tone = "chosen" if is_chosen else "plain"
    return Row(
        label=evaluation.label,
        picture=pictures.dot(interval, scale, tone=tone, zero=False, text=text),
        value=value,
        bounds=between,
        tone=tone,
    )


def _change_row(change: Change, scale: tuple[float, float]) -> Row:
    tone = change.surely or "plain"
    interval = change.difference
    show = points if change.is_share else signed
    between = bounds(interval, change.is_share, signed=True) if interval is not None else "not paired"
    value, name = show(change.estimate), words(change.task)
    picture, note = Markup(""), f"{words(change.grader)}, lower is better"
    if change.is_share:
        text = f"{name}: {value} points, interval {between}"
        picture = pictures.dot(interval or _point(change.estimate), scale, tone=tone, zero=True, text=text)
        note = f"{len(change.gained)} better, {len(change.lost)} worse" if interval is not None else ""
    return Row(label=name, picture=picture, value=value, bounds=between, note=note, tone=tone)


def _point(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=float("nan"), high=float("nan"), n=0)
