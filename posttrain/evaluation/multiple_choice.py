"""Multiple choice by log-likelihood: a prompt with one leaf for each choice, the prompt computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from posttrain.chat import generation_prompt
from posttrain.errors import DataError
from posttrain.evaluation.generation import KIND_COLUMNS, first_text
from posttrain.evaluation.loglikelihood import encoded, first_token, logprobs
from posttrain.evaluation.places import at
from posttrain.evaluation.records import Record
from posttrain.evaluation.tasks import MultipleChoiceTask, Row
from posttrain.models.learner import Learner
from posttrain.sampling.local import context_length
from posttrain.types import Segment


class MultipleChoice:
    """A task on a learner; its rows are checked, and made trees, beforehand."""

    def __init__(self, task: MultipleChoiceTask, learner: Learner, tokenizer: Any) -> None:
        self._task, self._learner = task, learner
        limit = context_length(learner.model)
        self._trees = []
        for number, row in enumerate(task.rows, start=1):
            with at(f"task {task.name!r}, row {number}"):
                answer, choices = task.answer(row), task.choices(row)
                if not 0 <= answer < len(choices):
                    raise DataError(f"the right choice is number {answer} of {len(choices)}, counted from 0")
                tree = _tree(task, row, tokenizer)
                longest = len(tree.tokens) + max(len(leaf.tokens) for leaf in tree.children)
                if limit is not None and longest > limit:
                    raise DataError(
                        f"prompt and choice have {longest} tokens, more than the {limit} positions of the model;"
                        " shorten the prompt"
                    )
                self._trees.append(tree)

    def records(self, rows: Sequence[int], progress: Callable[[int], None]) -> list[Record]:
        """The records of these rows, from 0."""
        flat = logprobs([self._trees[row] for row in rows], self._learner)
        progress(len(rows))
        return [self._record(row, values) for row, values in zip(rows, flat)]

    def _record(self, index: int, values: Sequence[float]) -> Record:
        task, row = self._task, self._task.rows[index]
        choices, answer = list(task.choices(row)), task.answer(row)
        borders = accumulate((len(leaf.tokens) for leaf in self._trees[index].children), initial=0)
        sums = [sum(values[start:end]) for start, end in pairwise(borders)]
        likeliest = {
            "acc": _first_greatest(sums),
            "acc_norm": _first_greatest([total / len(choice) for total, choice in zip(sums, choices)]),
        }
        return Record(
            task=task.name,
            row=index + 1,
            sample=1,
            prompt=task.prompt(row),
            completion=choices[likeliest[task.headline]],
            grades={name: float(likeliest[name] == answer) for name in task.measures},
            kind=first_text(row, KIND_COLUMNS),
            answer=choices[answer],
            measures={"choices": choices, "loglikelihoods": sums},
        )


def _first_greatest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])


def _tree(task: MultipleChoiceTask, row: Row, tokenizer: Any) -> Segment:
    """The prompt with a leaf for each choice: the tokens of prompt and choice after as many as the prompt has alone.

    White space at the end of the prompt goes to the choices, as most vocabularies join it to the word that follows.
    """
    choices = task.choices(row)
    if len(choices) < 2 or not all(choices):
        raise DataError(f"a multiple choice needs at least two choices, none of them empty; found {list(choices)!r}")
    if task.chat_template:
        context, delimiter = generation_prompt(tokenizer, task.messages(row)), ""
    else:
        context, delimiter = task.prompt(row), task.delimiter
    before = context.rstrip()
    delimiter = context[len(before) :] + delimiter
    if before:
        prompt = encoded(tokenizer, before)
        rests = [encoded(tokenizer, before + delimiter + choice)[len(prompt) :] for choice in choices]
    else:
        prompt = [first_token(tokenizer)]
        rests = [list(tokenizer(delimiter + choice, add_special_tokens=False).input_ids) for choice in choices]
    for choice, rest in zip(choices, rests):
        if not rest:
            raise DataError(f"the choice {choice!r} has no tokens of its own after the prompt")
    return Segment(tokens=prompt, children=[Segment(tokens=rest, trained=[(0, len(rest))]) for rest in rests])
