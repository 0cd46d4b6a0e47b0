"""Measuring a model: a task is rows, a prompt and graders; a run leaves one record per sample."""

from posttrain.evaluation.records import Record, read_records
from posttrain.evaluation.results import Result, write_scores
from posttrain.evaluation.run import evaluate
from posttrain.evaluation.tasks import (
    AnyTask,
    Grade,
    Grader,
    HarnessTask,
    MultipleChoiceTask,
    PerplexityTask,
    Task,
    prompt_column,
)

__all__ = [
    "AnyTask",
    "Grade",
    "Grader",
    "HarnessTask",
    "MultipleChoiceTask",
    "PerplexityTask",
    "Record",
    "Result",
    "Task",
    "evaluate",
    "prompt_column",
    "read_records",
    "write_scores",
]
