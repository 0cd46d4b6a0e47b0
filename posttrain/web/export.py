"""The judgements as preference rows, with what became of every question."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.curation.output import Output, beside
from posttrain.curation.provenance import noted
from posttrain.curation.rows import PROVENANCE, Row
from posttrain.errors import ConfigError
from posttrain.web.journal import Journal, Judgement
from posttrain.web.questions import Answer, Question, Questions
from posttrain.web.summary import TIE, by_writer, choice, summarise

Outcome = Literal["pairs", "waiting", "skipped", "tie", "disagreement"]
_REASONS = {
    "skipped": "everybody skipped it",
    "tie": "the answers were judged equally good",
    "disagreement": "no answer has more votes than every other",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What became of a question."""

    outcome: Outcome
    rows: Sequence[Row] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """How many pairs were written, and of how many questions what became."""

    path: Path
    pairs: int
    outcomes: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """One line for a person."""
        words = {"tie": "tied", "disagreement": "without a majority", "skipped": "skipped", "waiting": "waiting"}
        others = [f"{self.outcomes[name]} {word}" for name, word in words.items() if self.outcomes.get(name)]
        decided = self.outcomes.get("pairs", 0)
        said = f"{self.pairs} pair{'s' * (self.pairs != 1)} of {decided} question{'s' * (decided != 1)}"
        return f"{self.path}: {said}" + (f" ({', '.join(others)})" if others else "")


def decide(question: Question, judgements: Sequence[Judgement]) -> Decided:
    """The pairs that the judgements of a question make: the answer with the most votes against each other one.

    A tie is a vote too; without a single winner there is no pair. Where the winner was edited, the last edit is
    chosen, and what it was made from is one of the rejected.
    """
    if not judgements:
        return Decided(outcome="waiting")
    voters = [one for one in judgements if choice(one) is not None]
    if not voters:
        return Decided(outcome="skipped")
    (winner, most), *others = Counter(choice(one) for one in voters).most_common()
    if others and others[0][1] == most:
        return Decided(outcome="disagreement")
    if winner == TIE:
        return Decided(outcome="tie")
    edits = [one for one in voters if one.answer == winner and one.text is not None]
    best = next(answer for place, answer in enumerate(question.answers) if place == winner)
    rejected = [answer for answer in question.answers if edits or answer is not best]
    chosen = best.content
    if edits:
        text = max(edits, key=lambda one: one.time).text
        assert text is not None
        chosen, rejected = best.edited(text), [answer for answer in rejected if answer.text != text]
    votes = [
        {"annotator": one.annotator, "verdict": one.verdict, "for_chosen": choice(one) == winner} for one in voters
    ]
    label: dict[str, Any] = {"question": question.id, "votes": votes, "edited": bool(edits)}
    if question.label is not None:
        label["as_labelled"] = winner == question.label
    return Decided(outcome="pairs", rows=[_pair(question, chosen, best, answer, label) for answer in rejected])


def export(
    path: Path, asked: Questions, journal: Journal, *, inputs: Sequence[str], settings: Mapping[str, Any]
) -> Exported:
    """Writes FILE, FILE.rejects.jsonl and FILE.card.json, each whole or not at all, over those of an earlier export."""
    by_question: dict[str, list[Judgement]] = {}
    for judgement in journal:
        by_question.setdefault(judgement.question, []).append(judgement)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
        new = Path(aside) / path.name
        with Output(new, command="data label", settings=settings, inputs=inputs) as output:
            for refused in asked.refused:
                output.reject(refused.row, step="questions", reason=refused.reason, field=refused.field)
            for question in asked.questions:
                decided = decide(question, by_question.get(question.id, []))
                outcomes[decided.outcome] += 1
                for row in decided.rows:
                    output.keep(row)
                if decided.outcome in _REASONS:
                    output.reject(_whole(question), step=decided.outcome, reason=_REASONS[decided.outcome])
            exported = Exported(path=path, pairs=output.kept, outcomes=dict(outcomes))
            _fill(output, asked, journal, outcomes)
        output.card.output = {**output.card.output, "file": str(path)}
        output.card.write(beside(new, "card.json"))
        for name in ("rejects.jsonl", "card.json"):
            os.replace(beside(new, name), beside(path, name))
        os.replace(new, path)
    return exported


def check_output(path: Path, inputs: Sequence[str]) -> Path:
    """Where the judgements lie. Raises ConfigError for an output that is an input or was not made from judgements."""
    judgements = beside(path, "judgements.jsonl")
    for name in inputs:
        if Path(name).resolve() in (path.resolve(), judgements.resolve()):
            raise ConfigError(f"the output {path} is also an input; name another")
    if path.exists() and not judgements.exists():
        raise ConfigError(
            f"{path} exists, and {judgements} does not, so it was not made here. Name another output, or remove it."
        )
    return judgements


def _pair(question: Question, chosen: Any, best: Answer, worse: Answer, label: Mapping[str, Any]) -> Row:
    about = {**label, "chosen": list(best.writers), "rejected": list(worse.writers)}
    row = {
        "prompt": question.prompt, "chosen": chosen, "rejected": worse.content, **question.columns,
        PROVENANCE: question.provenance,
    }  # fmt: skip
    return noted(row, label=about, passed=["label"])


def _whole(question: Question) -> Row:
    answers = [{"text": answer.text, "writers": list(answer.writers)} for answer in question.answers]
    return {"prompt": question.prompt, "answers": answers, PROVENANCE: question.provenance}


def _fill(output: Output, asked: Questions, journal: Journal, outcomes: Mapping[str, int]) -> None:
    """The card: the funnel over questions, what each person said, their agreement, and whose answers won."""
    card, total = output.card, len(asked.questions)
    judged = total - outcomes.get("waiting", 0)
    said = judged - outcomes.get("skipped", 0)
    decided = outcomes.get("pairs", 0)
    card.step("questions", asked.rows, total, output.examples.get("questions", ()))
    card.step("judged", total, judged)
    card.step("not skipped", judged, said, output.examples.get("skipped", ()))
    tied, open_ = outcomes.get("tie", 0), outcomes.get("disagreement", 0)
    examples = [*output.examples.get("tie", ()), *output.examples.get("disagreement", ())]
    card.step("decided", said, decided, examples, ties=tied, disagreements=open_)
    summary = summarise(asked.questions, journal)
    card.counts |= {"rows read": asked.rows, "judgements": sum(1 for _ in journal)}
    if summary.agreement is not None:
        card.counts["agreement"] = summary.agreement.as_dict()
    if writers := by_writer(asked.questions, journal):
        card.counts["models"] = writers
    card.notes += summary.lines()
