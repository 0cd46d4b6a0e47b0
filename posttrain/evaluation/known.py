"""Well-known files as tasks: what their columns are called says how they are asked and graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.tasks import (
    AnyTask,
    Grader,
    MultipleChoiceTask,
    PerplexityTask,
    Prompt,
    Row,
    Task,
    prompt_column,
    text_column,
)

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_QUESTIONS = ("question", "problem", "prompt", "query", "ctx", "goal")
_CHOICES = ("choices", "endings", "options")
_ANSWERS = ("answerKey", "answer", "label", "gold", "answer_index")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

FINAL: Mapping[str, Grader] = {
    "strict": "final_answer",
    "lenient": {"name": "final_answer", "lenient": True, "strip_units": True},
}
MATHEMATICS: Mapping[str, Grader] = {
    "strict": {"name": "math_answer", "only_boxed": True},
    "lenient": {"name": "math_answer", "lenient": True},
}
INSTRUCTIONS: Mapping[str, Grader] = {
    "strict": "instruction_following",
    "loose": {"name": "instruction_following", "mode": "loose"},
    "strict_share": {"name": "instruction_following", "score": "share"},
}


def known_task(rows: Sequence[Row], name: str) -> AnyTask | None:
    """The task that the columns of the first row tell, or None where they are not known.

    GSM8K (`question`, and an `answer` with "####"), MATH (`problem`, `solution`), IFEval (`prompt`,
    `instruction_id_list`, `kwargs`), questions with a `ground_truth`, choices (a question, a list of choices, the right
    one), and texts (`text` alone).
    """
    row = rows[0]
    if "instruction_id_list" in row and "prompt" in row:
        return Task(name=name, rows=rows, graders=INSTRUCTIONS, max_new_tokens=1280)
    if _first(row, _CHOICES) and _first(row, _ANSWERS) and _first(row, _QUESTIONS):
        return choice_task(rows, name)
    if "problem" in row and ("solution" in row or "answer" in row):
        return Task(name=name, rows=rows, prompt=_asked("problem", BOXED), graders=MATHEMATICS, max_new_tokens=1024)
    question = _first(row, ("question", "prompt"))
    if question is None:
        return PerplexityTask(name=name, rows=rows) if "text" in row else None
    if "ground_truth" in row:
        return Task(name=name, rows=rows, prompt=_asked(question, ""), graders=FINAL, max_new_tokens=512)
    if "####" in str(row.get("answer", "")):
        return Task(name=name, rows=rows, prompt=_asked(question, BOXED), graders=FINAL, max_new_tokens=512)
    return None


def choice_task(
    rows: Sequence[Row], name: str, *, choices: str | None = None, answer: str | None = None,
    prompt: Callable[[Row], str] | None = None, letters: bool = False, **options: Any,
) -> MultipleChoiceTask:  # fmt: skip
    """A multiple choice over the columns that are named, or that are known.

    Unless given, the prompt is "Question: ...\\nAnswer:", or the text itself where that is to be completed (`ctx`).
    """
    found = choices or _first(rows[0], _CHOICES)
    right = answer or _first(rows[0], _ANSWERS)
    if found is None or right is None:
        raise DataError(
            f"task {name!r}: a multiple choice needs a column with the choices and one with the right choice; name them"
            f" with choices and answer (columns: {', '.join(map(str, rows[0]))})"
        )

    def texts(row: Row) -> list[str]:
        return _texts(row, found)

    def asked(row: Row) -> str:
        text = _question(row) if prompt is None else prompt(row)
        if not letters:
            return text if prompt is not None or "ctx" in row else f"Question: {text}\nAnswer:"
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, texts(row)))
        return f"{text}\n{listed}\nAnswer:"

    return MultipleChoiceTask(
        name=name,
        rows=rows,
        prompt=asked,
        choices=lambda row: list(LETTERS[: len(texts(row))]) if letters else texts(row),
        answer=lambda row: _right(row.get(right), texts(row), _labels(row, found), right),
        **options,
    )


def generic_task(rows: Sequence[Row], name: str) -> Task:
    """Questions of the column `prompt`, or else `question` or `problem`, without graders."""
    column = _first(rows[0], ("prompt", "question", "problem"))
    return Task(name=name, rows=rows, prompt=prompt_column if column in (None, "prompt") else _asked(column or "", ""))


def text_task(rows: Sequence[Row], name: str, *, column: str | None, max_length: int | None) -> PerplexityTask:
    """The perplexity of a column's texts."""

    def text(row: Row) -> str:
        return text_column(row if column is None else {"text": row.get(column)})

    return PerplexityTask(name=name, rows=rows, text=text, max_length=max_length)


def _first(row: Row, columns: Sequence[str]) -> str | None:
    return next((column for column in columns if row.get(column) is not None), None)


def _asked(column: str, after: str) -> Callable[[Row], Prompt]:
    def prompt(row: Row) -> Prompt:
        asked = row.get(column)
        if not isinstance(asked, str | list) or not asked:
            raise DataError(f"expected a column {column!r} with the question, found {asked!r:.60}")
        return asked + after if isinstance(asked, str) else asked

    return prompt


def _question(row: Row) -> str:
    for column in _QUESTIONS:
        if isinstance(text := row.get(column), str) and text:
            return text
    raise DataError(f"expected a question in one of the columns {', '.join(_QUESTIONS)}; found {sorted(row)}")


def _texts(row: Row, column: str) -> list[str]:
    found = row.get(column)
    if isinstance(found, Mapping):  # ARC: {"text": [...], "label": [...]}
        found = found.get("text")
    if not isinstance(found, list | tuple) or not all(isinstance(choice, str) for choice in found):
        raise DataError(f"expected a list of texts in the column {column!r}, found {found!r:.60}")
    return list(found)


def _labels(row: Row, column: str) -> list[str]:
    found = row.get(column)
    return [str(label) for label in found.get("label") or ()] if isinstance(found, Mapping) else []


def _right(value: Any, choices: Sequence[str], labels: Sequence[str], column: str) -> int:
    """The place of the right choice: a number is that, a text is a label, a choice, a letter or a number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    if isinstance(value, str):
        text = value.strip()
        for known in (labels, choices, LETTERS[: len(choices)], [str(place) for place in range(len(choices))]):
            if text in known:
                return known.index(text)
    raise DataError(
        f"the column {column!r} holds {value!r:.60}, which is none of the {len(choices)} choices: neither a place from"
        " 0, nor a letter, nor the text of one"
    )
