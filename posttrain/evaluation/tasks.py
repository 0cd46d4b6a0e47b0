"""What a model is asked and how its answers are graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import DataError

Row = Mapping[str, Any]
Prompt = str | list[dict[str, Any]]
Grade = Callable[[Row, str], float]  # a row and a completion -> 0 to 1, or a bool; a reward has the same shape


def prompt_column(row: Row) -> Prompt:
    """The row's column "prompt": the user's text, or a list of messages. Raises DataError without one."""
    prompt = row.get("prompt")
    if isinstance(prompt, str | list) and prompt:
        return prompt
    raise DataError(
        f"expected a column 'prompt' with a text or a list of messages, found {prompt!r}; "
        f"the row's columns are {sorted(row)}"
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """Questions, how they are put, and what is measured on the answers.

    The first of the graders is the task's headline. A task without graders only keeps what was answered.
    """

    name: str
    rows: Sequence[Row]
    graders: Mapping[str, Grade] = field(default_factory=dict)
    prompt: Callable[[Row], Prompt] = prompt_column
    system_message: str | None = None
    max_new_tokens: int = 64
    samples: int = 1  # per row
    temperature: float = 0.0  # 0 is greedy

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError(f"task {self.name!r} has no rows: there is nothing to ask")
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

    def messages(self, row: Row) -> list[dict[str, Any]]:
        """The conversation that asks this row's question."""
        prompt = self.prompt(row)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.system_message is not None and messages[0].get("role") != "system":
            return [{"role": "system", "content": self.system_message}, *messages]
        return messages
