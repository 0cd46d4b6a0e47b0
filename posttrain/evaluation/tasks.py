"""What a model is asked, or shown, and what is measured on it: one class for each way of measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from posttrain.errors import DataError
from posttrain.types import Message, Reward

Row = Mapping[str, Any]
Prompt = str | list[Message]
Grade = Callable[[Row, str], float]  # a row and a stripped completion -> 0 to 1, or a bool
Grader = Grade | Reward | str | Mapping[str, Any]  # or a reward: a function, or what `make_reward` makes one of


def prompt_column(row: Row) -> Prompt:
    """The row's column "prompt": the user's text, or a list of messages. Raises DataError without one."""
    prompt = row.get("prompt")
    if isinstance(prompt, str | list) and prompt:
        return prompt
    raise DataError(
        f"expected a column 'prompt' with a text or a list of messages, found {prompt!r}; "
        f"the row's columns are {sorted(row)}"
    )


def text_column(row: Row) -> str:
    """The row's column "text". Raises DataError without one."""
    text = row.get("text")
    if isinstance(text, str) and text:
        return text
    raise DataError(f"expected a column 'text' with a text, found {text!r:.60}; the row's columns are {sorted(row)}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Questions that are answered: how they are put, and how the answers are graded.

    The first of the graders is the task's headline. A task without graders only keeps what was answered. Without
    `chat_template` the prompt is a text that the model continues.
    """

    name: str
    rows: Sequence[Row]
    graders: Mapping[str, Grader] = field(default_factory=dict)
    prompt: Callable[[Row], Prompt] = prompt_column
    system_message: str | None = None
    chat_template: bool = True
    max_new_tokens: int = 64
    samples: int = 1  # per row
    temperature: float = 0.0  # 0 is greedy
    stop: tuple[str, ...] = ()  # texts that end an answer and are cut off

    def __post_init__(self) -> None:
        _require_rows(self.name, self.rows)
        if self.max_new_tokens < 1:
            raise DataError(f"task {self.name!r}: max_new_tokens is {self.max_new_tokens}, must be at least 1")
        if self.samples < 1 or self.temperature < 0:
            raise DataError(
                f"task {self.name!r}: samples is {self.samples} and temperature {self.temperature}; "
                "at least 1 and at least 0 are needed"
            )
        if self.samples > 1 and self.temperature == 0:
            raise DataError(
                f"task {self.name!r}: {self.samples} samples at temperature 0 are the same answer "
                f"{self.samples} times; set a temperature"
            )
        if self.system_message is not None and not self.chat_template:
            raise DataError(f"task {self.name!r}: a system message needs the chat template")

    def messages(self, row: Row) -> list[Message]:
        """The conversation that asks this row's question."""
        return _conversation(self.prompt(row), self.system_message)


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceTask:
    """Questions whose choices are scored as continuations of the prompt, by their log-likelihood.

    `acc`: the likeliest choice is the right one. `acc_norm`: the likeliest per character is (a long choice has more
    tokens to be unlikely in). The prompt is continued with `delimiter` and the choice.
    """

    name: str
    rows: Sequence[Row]
    prompt: Callable[[Row], str]
    choices: Callable[[Row], Sequence[str]]
    answer: Callable[[Row], int]  # the place of the right choice, from 0
    headline: str = "acc"  # or "acc_norm"
    delimiter: str = " "
    system_message: str | None = None
    chat_template: bool = False  # the prompt as a user's message, the choice as the answer

    def __post_init__(self) -> None:
        _require_rows(self.name, self.rows)
        if self.headline not in MEASURES:
            raise DataError(f"task {self.name!r}: headline {self.headline!r} must be one of {', '.join(MEASURES)}")
        if self.system_message is not None and not self.chat_template:
            raise DataError(f"task {self.name!r}: a system message needs the chat template")

    @property
    def measures(self) -> tuple[str, ...]:
        """Both measures, the headline first."""
        return tuple(sorted(MEASURES, key=lambda name: name != self.headline))

    def messages(self, row: Row) -> list[Message]:
        """The conversation that asks this row's question, where the chat template is used."""
        return _conversation(self.prompt(row), self.system_message)


MEASURES = ("acc", "acc_norm")  # of a multiple choice


@dataclass(frozen=True, kw_only=True)
class PerplexityTask:
    """Texts, and how well the model predicts them: per word, per byte and per token.

    A text longer than `max_length` tokens (unset: what the model has positions for) is read in windows that follow
    each other.
    """

    name: str
    rows: Sequence[Row]
    text: Callable[[Row], str] = text_column
    max_length: int | None = None

    def __post_init__(self) -> None:
        _require_rows(self.name, self.rows)
        if self.max_length is not None and self.max_length < 2:
            raise DataError(f"task {self.name!r}: max_length is {self.max_length}, must be at least 2")


@dataclass(frozen=True, kw_only=True)
class HarnessTask:
    """A task of lm-evaluation-harness, which asks and grades as it is published."""

    name: str
    task: str  # the harness's name of it
    include_path: Path | None = None  # a directory with further tasks, or with files for use without a network
    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = False


AnyTask: TypeAlias = Task | MultipleChoiceTask | PerplexityTask | HarnessTask


def _require_rows(name: str, rows: Sequence[Row]) -> None:
    if not rows:
        raise DataError(f"task {name!r} has no rows: there is nothing to ask")


def _conversation(prompt: Prompt, system_message: str | None) -> list[Message]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_message is not None and messages[0].get("role") != "system":
        return [{"role": "system", "content": system_message}, *messages]
    return messages
