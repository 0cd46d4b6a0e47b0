"""What the judgements say as a whole: of each person, of their agreement, and of those who wrote the answers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from posttrain.stats import Interval, wilson
from posttrain.stats.agreement import cohen_kappa_interval, fleiss_kappa_interval
from posttrain.web.journal import Judgement
from posttrain.web.questions import Question

TIE = "tie"
Choice = int | str  # an answer, or TIE


def choice(judgement: Judgement) -> Choice | None:
    """The answer that was preferred, edited or not; TIE; None for what was skipped."""
    if judgement.verdict == "skip":
        return None
    return TIE if judgement.verdict == "tie" else judgement.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One annotator's judgements in numbers."""

    name: str
    verdicts: Mapping[str, int]
    first_shown: Interval | None  # how often the answer shown first was preferred
    with_label: Interval | None  # how often the answer that the file calls chosen was
    seconds: float | None  # median

    def text(self) -> str:
        """Such as `ana: 38 preferred, 2 edited, 5 tie, 1 skipped; ...`."""
        words = {"prefer": "preferred", "edit": "edited", "tie": "tied", "skip": "skipped"}
        said = [", ".join(f"{self.verdicts[key]} {word}" for key, word in words.items() if self.verdicts.get(key))]
        if self.first_shown is not None:
            said.append(f"the answer shown first in {self.first_shown.percent()}")
        if self.with_label is not None:
            said.append(f"the file's chosen one in {self.with_label.percent()} of {self.with_label.n}")
        if self.seconds is not None:
            said.append(f"{self.seconds:.0f} s each")
        return f"{self.name}: {'; '.join(said)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far the annotators agree on the questions that two or more of them judged."""

    annotators: Sequence[str]
    measure: str  # "Cohen's kappa" or "Fleiss' kappa"
    kappa: Interval
    alike: float  # share of pairs of judgements that are the same

    def text(self) -> str:
        """One line for a person."""
        who = ", ".join(self.annotators[:-1]) + f" and {self.annotators[-1]}"
        if math.isnan(self.kappa.estimate):
            beyond = "all judgements are the same, so kappa says nothing"
        else:
            low, high = self.kappa.low, self.kappa.high
            beyond = f"{self.measure} {self.kappa.estimate:.2f}"
            beyond += "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
        n = self.kappa.n
        return f"{who} agree in {100 * self.alike:.1f}% of {n} question{'s' * (n != 1)}: {beyond}"

    def as_dict(self) -> dict[str, Any]:
        """The numbers, None where there is none."""
        kappa = {"kappa": self.kappa.estimate, "low": self.kappa.low, "high": self.kappa.high}
        known = {name: None if math.isnan(value) else value for name, value in kappa.items()}
        about = {"annotators": list(self.annotators), "questions": self.kappa.n, "alike": self.alike}
        return {**about, "measure": self.measure, **known}


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The people and their agreement."""

    people: Sequence[Person]
    agreement: Agreement | None

    def lines(self) -> list[str]:
        """For the terminal and the card."""
        return [*(person.text() for person in self.people), *([self.agreement.text()] if self.agreement else [])]


def summarise(questions: Sequence[Question], judgements: Iterable[Judgement]) -> Summary:
    """The summary of the judgements that are of these questions."""
    known = {question.id: question for question in questions}
    said = [judgement for judgement in judgements if judgement.question in known]
    by_person: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in said:
        by_person[judgement.annotator].append(judgement)
    return Summary(
        people=[_person(name, own, known) for name, own in sorted(by_person.items())], agreement=agreement(said)
    )


def agreement(judgements: Iterable[Judgement]) -> Agreement | None:
    """Cohen's kappa of two annotators, Fleiss' of more; None where no two judged a question. Skips do not count.

    What an answer is called in it depends on its text alone: were it the file's order, with the better answer first,
    two people who always find it would agree no more than by chance.
    """
    said: dict[str, dict[str, Choice]] = defaultdict(dict)
    for judgement in judgements:
        if (chosen := choice(judgement)) is not None:
            said[judgement.question][judgement.annotator] = chosen
    shared = [votes for votes in said.values() if len(votes) >= 2]
    if not shared:
        return None
    names = sorted({name for votes in shared for name in votes})
    pairs = [(a, b) for votes in shared for a, b in _pairs(list(votes.values()))]
    alike = sum(_share(votes.values()) for votes in shared) / len(shared)
    if len(names) == 2:
        first, second = ([votes[name] for votes in shared] for name in names)
        kappa, measure = cohen_kappa_interval(first, second), "Cohen's kappa"
    else:
        choices = list(dict.fromkeys(one for pair in pairs for one in pair))
        counts = [[list(votes.values()).count(one) for one in choices] for votes in shared]
        kappa, measure = fleiss_kappa_interval(counts), "Fleiss' kappa"
    return Agreement(annotators=names, measure=measure, kappa=kappa, alike=alike)


def by_writer(questions: Sequence[Question], judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """For each model that a row names: how often its answer was shown, preferred, and part of a tie.

    An answer that several wrote counts for each of them. For the card alone: a page that showed it would not be blind.
    """
    known = {question.id: question for question in questions}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for judgement in judgements:
        question, chosen = known.get(judgement.question), choice(judgement)
        if question is None or chosen is None:
            continue
        for place, answer in enumerate(question.answers):
            for name in {str(writer["model"]) for writer in answer.writers if writer.get("model")}:
                found[name]["shown"] += 1
                found[name]["preferred"] += chosen == place
                found[name]["tied"] += chosen == TIE
    return {name: dict(counts) for name, counts in sorted(found.items())}


def _person(name: str, own: Sequence[Judgement], questions: Mapping[str, Question]) -> Person:
    chosen = [one for one in own if one.verdict in ("prefer", "edit")]
    labels = [(one.answer, questions[one.question].label) for one in chosen]
    labels = [(answer, label) for answer, label in labels if label is not None]
    first = [one.answer == one.order[0] for one in chosen if one.order]
    seconds = [one.seconds for one in own if one.seconds is not None]
    return Person(
        name=name,
        verdicts=Counter(one.verdict for one in own),
        first_shown=wilson(sum(first), len(first)) if first else None,
        with_label=wilson(sum(a == b for a, b in labels), len(labels)) if labels else None,
        seconds=median(seconds) if seconds else None,
    )


def _pairs(votes: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(a, b) for place, a in enumerate(votes) for b in votes[place + 1 :]]


def _share(votes: Iterable[Any]) -> float:
    pairs = _pairs(list(votes))
    return sum(a == b for a, b in pairs) / len(pairs)
