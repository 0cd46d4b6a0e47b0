"""What a person is asked: a prompt and two or more answers to it, whatever file they came in."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.curation.provenance import provenance
from posttrain.curation.rows import Broken, Row, read_stream
from posttrain.data.formats import EXTRAS, Content, content, detect
from posttrain.data.loading import Rows
from posttrain.data.messages import Message, read_messages
from posttrain.errors import DataError

MOST_ANSWERS = 9  # as many as there are keys for
READ = (
    "'prompt' with 'answers' (a list of texts, or of objects with 'text'), 'chosen' and 'rejected', or 'prompt' with"
    " 'completion' where several rows answer one prompt"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer, and what its rows say of it, which no browser is told."""

    text: str  # as it is shown
    content: Content  # as it is written out
    writers: tuple[Mapping[str, Any], ...] = ()  # several where they wrote the same

    @property
    def editable(self) -> bool:
        """Whether the text is all there is to the answer."""
        return isinstance(self.content, str) or [dict(m) for m in self.content] == _assistant(self.text)

    def edited(self, text: str) -> Content:
        """The answer with another text."""
        return text if isinstance(self.content, str) else _assistant(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt and its different answers, in an order that depends on nothing but their texts."""

    id: str
    prompt: Content
    answers: tuple[Answer, ...]
    label: int | None = None  # the answer that the file calls chosen
    columns: Mapping[str, Any] = field(default_factory=dict)  # what a template needs beside the messages
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def order(self, annotator: str, seed: int) -> list[int]:
        """The answers as this person sees them: drawn anew for each question and person, the same each time."""
        drawn = hashlib.sha256(f"{seed}\0{annotator}\0{self.id}".encode()).digest()
        places = list(range(len(self.answers)))
        random.Random(int.from_bytes(drawn)).shuffle(places)
        return places


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A row of which nothing can be asked."""

    row: Row | Broken
    reason: str
    field: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What the inputs ask, in their order, and the rows that ask nothing."""

    questions: tuple[Question, ...]
    refused: tuple[Refused, ...]
    rows: int


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A question in the making."""

    row: Row
    prompt: Content
    answers: list[Answer]
    chosen: str | None = None


def read_questions(inputs: Sequence[str], *, strict: bool = False) -> Questions:
    """The questions in files of any of the shapes in `READ`; rows with one prompt and an answer each are put together.

    Raises DataError where a file cannot be opened or where nothing at all can be asked, with `strict` at the first row
    that cannot be read.
    """
    drafts: list[_Draft] = []
    groups: dict[str, _Draft] = {}
    refused: list[Refused] = []
    rows = 0
    for name in inputs:
        for row in read_stream([name], strict=strict):
            rows += 1
            if isinstance(row, Broken):
                refused.append(Refused(row=row, reason=row.reason, field=row.field))
                continue
            try:
                draft = _draft(row, name)
            except DataError as error:
                if strict:
                    raise DataError(f"{provenance(row)['source']}:{provenance(row)['line']}: {error}") from None
                refused.append(Refused(row=row, reason=str(error)))
                continue
            if "completion" in row and len(draft.answers) == 1:
                known = groups.setdefault(_written(draft.prompt), draft)
                if known is not draft:
                    known.answers += draft.answers
                    continue
            drafts.append(draft)
    asked: dict[str, Question] = {}
    for draft in drafts:
        question = _question(draft)
        if isinstance(question, Refused):
            refused.append(question)
        elif question.id in asked:
            refused.append(Refused(row=draft.row, reason="asks what an earlier row asks, with the same answers"))
        else:
            asked[question.id] = question
    if not asked:
        why = f" The first row says: {refused[0].reason}" if refused else ""
        raise DataError(f"{', '.join(inputs)}: {rows} rows, and nothing to judge in them. Read are {READ}.{why}")
    return Questions(questions=tuple(asked.values()), refused=tuple(refused), rows=rows)


def _draft(row: Row, source: str) -> _Draft:
    if "answers" in row:
        answers = row["answers"]
        if isinstance(answers, str) and answers.lstrip().startswith("["):  # a CSV cell
            answers = _parsed(answers)
        if not isinstance(answers, list):
            raise DataError(f"'answers' must be a list, got {type(answers).__name__}")
        return _Draft(row=row, prompt=_prompt(row), answers=[_answer(one, n) for n, one in enumerate(answers)])
    if "chosen" in row and "rejected" in row:
        form = detect(Rows(name="row", records=[row]), task="DPO")
        for column in form.columns:
            if row.get(column) is None:
                raise DataError(f"{column!r} is empty")
        prompt, (chosen, rejected) = form.read(row)
        answers = [Answer(text=_shown(one), content=one) for one in (chosen, rejected)]
        return _Draft(row=row, prompt="" if prompt is None else prompt, answers=answers, chosen=answers[0].text)
    if "prompt" in row and "completion" in row:
        written = _as_answer(content(row, "completion"))
        about = {"model": row.get("model") or _model_of(source)}
        return _Draft(
            row=row, prompt=_prompt(row), answers=[Answer(text=_shown(written), content=written, writers=(about,))]
        )
    raise DataError(f"the columns {', '.join(sorted(set(row) - {'_provenance'})) or '(none)'} hold no answers")


def _question(draft: _Draft) -> Question | Refused:
    different: dict[str, Answer] = {}
    for answer in draft.answers:
        same = different.get(answer.text)
        before = same.writers if same else ()
        writers = before + tuple(one for one in answer.writers if one not in before)
        different[answer.text] = Answer(text=answer.text, content=answer.content, writers=writers)
    count = len(different)
    if count < 2:
        what = "one answer" if len(draft.answers) == 1 else "answers that are all the same" if count else "no answer"
        return Refused(row=draft.row, reason=f"has {what}; to judge, two different ones are needed")
    if count > MOST_ANSWERS:
        return Refused(row=draft.row, reason=f"has {count} answers; at most {MOST_ANSWERS} are shown at once")
    answers = sorted(different.values(), key=lambda one: hashlib.sha256(one.text.encode()).digest())
    texts = [one.text for one in answers]
    return Question(
        id=hashlib.sha256(_written([draft.prompt, texts]).encode()).hexdigest()[:20],
        prompt=draft.prompt,
        answers=tuple(answers),
        label=None if draft.chosen is None else texts.index(draft.chosen),
        columns={name: draft.row[name] for name in EXTRAS if draft.row.get(name)},
        provenance=provenance(draft.row),
    )


def _prompt(row: Row) -> list[Message]:
    if row.get("prompt") is None:
        raise DataError("has no 'prompt'")
    prompt = content(row, "prompt")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not messages or messages[-1]["role"] == "assistant":
        raise DataError("'prompt' must end with a message that asks for an answer")
    return messages


def _answer(value: Any, number: int) -> Answer:
    about: dict[str, Any] = {}
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        about = {str(name): one for name, one in value.items() if name != "text" and one is not None}
        value = value["text"]
    if isinstance(value, list | Mapping):
        value = read_messages(value, f"answers[{number}]")
    if not isinstance(value, str | list) or value == []:
        raise DataError(f"answers[{number}] must be a text, messages or an object with 'text', got {value!r:.60}")
    written = _as_answer(value)
    return Answer(text=_shown(written), content=written, writers=(about,) if about else ())


def _as_answer(value: Content) -> list[Message]:
    return _assistant(value) if isinstance(value, str) else value


def _assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _shown(value: Content) -> str:
    """The answer as a person reads it: its text, or what its messages say one after the other."""
    if isinstance(value, str):
        return value
    return "\n\n".join(message_text(message, alone=message["role"] == "assistant") for message in value)


def message_text(message: Message, *, alone: bool = True) -> str:
    """What a message says, its reasoning and its calls included; its role before it unless it stands alone."""
    lines: list[str] = [] if alone else [f"{message['role']}:"]
    if message.get("reasoning_content"):
        lines.append(f"(thinking) {message['reasoning_content']}")
    if message.get("content"):
        lines.append(str(message["content"]))
    lines += [f"(call) {json.dumps(call, ensure_ascii=False)}" for call in message.get("tool_calls") or ()]
    return "\n".join(lines)


@cache
def _model_of(name: str) -> str:
    """The model that a file of `posttrain sample` was made with, from the settings beside it, or the file's name."""
    from posttrain.sampling.answer_file import settings_path  # takes torch along, which other files do without

    try:
        settings = json.loads(settings_path(Path(name)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Path(name).name
    return str(settings["model"]) if isinstance(settings, dict) and settings.get("model") else Path(name).name


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"'answers' looks like JSON but is not: {error}") from None


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
