"""Answers to a task's questions, sampled and graded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from posttrain.errors import SamplingError
from posttrain.evaluation.graders import Graders
from posttrain.evaluation.places import at
from posttrain.evaluation.records import Record
from posttrain.evaluation.tasks import Row, Task
from posttrain.rewards.columns import ANSWER_COLUMNS
from posttrain.sampling.conversation import room_after
from posttrain.types import Prompt, Sampler, SamplingParams

KIND_COLUMNS = ("kind", "subject", "category", "type", "level")


class Generation:
    """A task on a sampler. Everything that can be said of the rows is said before a token is drawn."""

    def __init__(self, task: Task, sampler: Sampler, tokenizer: Any, graders: Graders, *, seed: int) -> None:
        self._task, self._sampler, self._graders, self._seed = task, sampler, graders, seed
        self._asked = []
        self._shown = []
        for number, row in enumerate(task.rows, start=1):
            with at(self._place(number)):
                shown, asked = _question(task, row, tokenizer)
                room = room_after(sampler, asked)
                if room is not None and room < task.max_new_tokens:
                    raise SamplingError(
                        f"with max_new_tokens={task.max_new_tokens} the prompt is {task.max_new_tokens - room} tokens"
                        f" too long for the model. Shorten it{f', or use at most {room}' if room > 0 else ''}."
                    )
                self._shown.append(shown)
                self._asked.append(asked)
        graders.check(task.rows)

    def records(self, rows: Sequence[int], progress: Callable[[int], None]) -> list[Record]:
        """The records of these rows, from 0. `progress` is told how many of their samples are drawn."""
        task = self._task
        groups = self._sampler.sample(
            [self._asked[row] for row in rows],
            SamplingParams(max_tokens=task.max_new_tokens, temperature=task.temperature, stop=task.stop),
            count=task.samples,
            seed=self._seed,
            keys=list(rows),
            progress=lambda done, _: progress(done),
        )
        drawn = [
            (row, sample, completion)
            for row, group in zip(rows, groups)
            for sample, completion in enumerate(group, start=1)
        ]
        tokens = [completion.tokens for _, _, completion in drawn]
        grades = self._graders.grade(
            [task.rows[row] for row, _, _ in drawn],
            [task.prompt(task.rows[row]) for row, _, _ in drawn],
            [completion.text for _, _, completion in drawn],
            None if None in tokens else [list(ids or ()) for ids in tokens],
            [f"{self._place(row + 1)}, sample {sample}" for row, sample, _ in drawn],
        )
        return [
            Record(
                task=task.name,
                row=row + 1,
                sample=sample,
                prompt=self._shown[row],
                completion=completion.text,
                grades=graded,
                kind=first_text(task.rows[row], KIND_COLUMNS),
                answer=first_text(task.rows[row], ANSWER_COLUMNS),
                seed=self._seed,
                tokens=None if completion.tokens is None else len(completion.tokens),
                finish_reason=completion.finish_reason,
            )
            for (row, sample, completion), graded in zip(drawn, grades)
        ]

    def _place(self, number: int) -> str:
        return f"task {self._task.name!r}, row {number}"


def first_text(row: Row, columns: Sequence[str]) -> str | None:
    """The first of the columns that holds a text or a number."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    return None


def _question(task: Task, row: Row, tokenizer: Any) -> tuple[str, Prompt]:
    """What is shown of the question, and what the sampler is asked."""
    if task.chat_template:
        messages = task.messages(row)
        content = messages[-1]["content"]
        return content if isinstance(content, str) else str(content), messages
    prompt = task.prompt(row)
    if not isinstance(prompt, str):
        raise SamplingError("the prompt is a conversation, which needs the chat template")
    if tokenizer is None:
        raise SamplingError("without the chat template a tokenizer is needed, and an endpoint has none here")
    return prompt, list(tokenizer(prompt).input_ids)
