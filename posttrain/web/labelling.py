"""Who judges what next, and what becomes of a judgement: all that the page can ask for, without the page."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from posttrain.errors import DataError
from posttrain.report.text import visible
from posttrain.web.journal import Journal, Judgement, Verdict
from posttrain.web.questions import Question, message_text

NAME_LIMIT = 60
LONGEST_EDIT = 200_000  # characters


class StaleError(DataError):
    """A judgement of a question that the person has judged otherwise, as in another window."""


class Labelling:
    """The questions of one session and the judgements of everybody."""

    def __init__(self, questions: Sequence[Question], journal: Journal, *, seed: int = 0) -> None:
        self.questions = questions
        self.journal = journal
        self.seed = seed
        self._by_id = {question.id: question for question in questions}

    def next(self, annotator: str) -> Question | None:
        """The first question that the person has not judged."""
        own = self.journal.of(annotator)
        return next((question for question in self.questions if question.id not in own), None)

    def judge(
        self,
        annotator: str,
        question_id: str,
        verdict: Verdict,
        *,
        position: int | None = None,
        text: str | None = None,
        seconds: float | None = None,
    ) -> Judgement:
        """The judgement, after it is on the disk. `position` counts the answers as the person sees them.

        A judgement that was sent twice is taken once; StaleError where another one of the question stands.
        Raises DataError for what cannot be meant.
        """
        question = self._by_id.get(question_id)
        if question is None:
            raise DataError("this question is not in the files that are judged now; reload the page")
        order = question.order(annotator, self.seed)
        answer = None
        if verdict in ("prefer", "edit"):
            if position is None or not 0 <= position < len(order):
                raise DataError(f"there are {len(order)} answers; {position} is none of them")
            answer = order[position]
        elif position is not None:
            raise DataError(f"a {verdict} is about no single answer")
        if verdict != "edit" and text is not None:
            raise DataError(f"a {verdict} has no text")
        if verdict == "edit":
            assert answer is not None
            verdict, answer, text = self._edited(question, answer, text)
        judgement = Judgement(
            annotator=annotator, question=question_id, verdict=verdict, answer=answer, text=text, order=tuple(order),
            seconds=None if seconds is None else round(seconds, 1),
        )  # fmt: skip
        before = self.journal.of(annotator).get(question_id)
        if before is None:
            self.journal.add(judgement)
        elif not before.same(judgement):
            raise StaleError("you have judged this question in another window; undo that judgement to change it")
        return judgement

    def undo(self, annotator: str, judged: int) -> Judgement | None:
        """The person's last judgement, taken back. `judged` is how many the page knows of, so that twice is once."""
        own = [question for question in self.journal.of(annotator) if question in self._by_id]
        return self.journal.undo(annotator, own[-1]) if own and len(own) == judged else None

    def again(self, annotator: str) -> None:
        """Takes back what the person skipped, so that it is asked again."""
        own = self.journal.of(annotator)
        for question in [key for key, one in own.items() if one.verdict == "skip" and key in self._by_id]:
            self.journal.undo(annotator, question)

    def view(self, annotator: str) -> dict[str, Any]:
        """What the page shows the person now. Nothing in it says who wrote an answer, or which the file prefers."""
        own = self.journal.of(annotator)
        verdicts = [own[question.id].verdict for question in self.questions if question.id in own]
        question = self.next(annotator)
        return {
            "annotator": annotator,
            "done": len(verdicts),
            "total": len(self.questions),
            "ties": verdicts.count("tie"),
            "skipped": verdicts.count("skip"),
            "question": None if question is None else self._shown(question, annotator),
        }

    def _shown(self, question: Question, annotator: str) -> dict[str, Any]:
        prompt = question.prompt
        messages = [{"role": "", "content": prompt}] if isinstance(prompt, str) else prompt
        answers = [question.answers[place] for place in question.order(annotator, self.seed)]
        return {
            "id": question.id,
            "prompt": [{"role": one["role"], "text": visible(message_text(one))} for one in messages],
            "answers": [
                {"shown": visible(one.text), "text": one.text if one.editable else None} for one in answers
            ],
        }  # fmt: skip

    def _edited(self, question: Question, answer: int, text: str | None) -> tuple[Verdict, int, str | None]:
        """An edit; a preference where the text is that of an answer that was shown."""
        if text is None or not text.strip():
            raise DataError("the edited answer is empty")
        if len(text) > LONGEST_EDIT:
            raise DataError(f"the edited answer has {len(text):,} characters; at most {LONGEST_EDIT:,} are taken")
        if not question.answers[answer].editable:
            raise DataError("this answer is more than a text, such as one with calls, and cannot be edited here")
        for place, one in enumerate(question.answers):
            if _lines(one.text) == _lines(text):
                return "prefer", place, None
        return "edit", answer, text


def _lines(text: str) -> str:
    """The text as a browser's text field gives it back."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def annotator_name(given: str) -> str:
    """The name as it is kept. Raises DataError for one that cannot be told from others."""
    name = " ".join(unicodedata.normalize("NFC", given).split())
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise DataError(f"a name has 1 to {NAME_LIMIT} characters that can be seen; {given[:80]!r} is none")
    return name
