"""Measuring a model: a task is rows, a prompt and graders; a run leaves one record per sample."""

from posttrain.evaluation.run import Record, Result, evaluate
from posttrain.evaluation.tasks import Grade, Task, prompt_column

__all__ = ["Grade", "Record", "Result", "Task", "evaluate", "prompt_column"]
