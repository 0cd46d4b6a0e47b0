"""Shows the first rows of a dataset as questions and answers."""

from __future__ import annotations

import html
import shutil
import sys
from typing import Any

from posttrain.data.formats import Content, Example, detect, examples
from posttrain.data.loading import load_rows
from posttrain.data.messages import Message

HEADINGS = {1: ("User Prompt", "Assistant Response"), 2: ("User Prompt", "Chosen", "Rejected")}


def display_dataset(dataset: Any, n: int = 3) -> None:
    """Shows the first `n` rows: a table in a notebook, plain text elsewhere. Raises DataError as training would."""
    rows = load_rows(dataset, name="dataset")
    head = rows.first(n)
    form = detect(head, task="DPO" if {"chosen", "rejected"} <= set(head[0]) else "SFT")
    table = [_cells(example) for example in examples(head, form)]
    headings = HEADINGS[len(table[0]) - 1] if form.name != "text" else ("", "Text")
    ipython = sys.modules.get("IPython")  # loaded already wherever there is a notebook
    if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
        ipython.display.display(ipython.display.HTML(_html(headings, table)))
    else:
        print(_plain(headings, table))


def _cells(example: Example) -> list[str]:
    """The question and the answer or answers of a row."""
    if example.prompt is None and not isinstance(example.completions[0], str):
        messages = example.completions[0]
        return [_last(messages, "user"), _last(messages, "assistant")]
    answers = [a if isinstance(a, str) else _last(a, "assistant") for a in example.completions]
    question: Content = example.prompt or ""
    return [question if isinstance(question, str) else _last(question, "user"), *answers]


def _last(messages: list[Message], role: str) -> str:
    return next((message["content"] for message in reversed(messages) if message["role"] == role), "")


def _plain(headings: tuple[str, ...], table: list[list[str]]) -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    lines = []
    for number, cells in enumerate(table):
        lines.append(f"-- {number} ".ljust(width, "-"))
        for heading, cell in zip(headings, cells):
            lines += [f"{heading}: {cell}"] if heading else []
    return "\n".join([*lines, "-" * width])


def _html(headings: tuple[str, ...], table: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    style = "text-align:left;white-space:pre-wrap;vertical-align:top"
    body = "".join(
        "<tr>" + "".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell in cells) + "</tr>" for cells in table
    )
    return f"<table><tr>{head}</tr>{body}</table>"
