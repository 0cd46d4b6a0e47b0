"""The questions of evaluation tasks as a file of rows, for training data to be compared with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from posttrain.config.gate import GateConfig
from posttrain.config.yaml_file import read_mapping
from posttrain.curation.reading import SUFFIXES
from posttrain.evaluation import AnyTask, Task
from posttrain.evaluation.definitions import HARNESS
from posttrain.evaluation.tasks import MultipleChoiceTask, PerplexityTask
from posttrain.recipes.scoring import named_tasks

FILE = "questions.jsonl"
_ROWS = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})(?:\.gz)?$", re.IGNORECASE)
_GATE = {"targets", "retention", "max_kl"}


def question_files(names: Sequence[str], directory: Path, say: Callable[[str], None] = print) -> list[str]:
    """Files whose rows are what these evaluate on: files of rows as they are, tasks written into one in `directory`.

    A name is a file, a task by name, definitions (.yaml), or a gate. Tasks that only the harness knows, and what a
    later stage is yet to write, are named and left out.
    """
    files, tasks = [], []
    for name in names:
        if "${" in name:
            say(f"decontaminate: {name} is not written yet and is not looked for")
        elif name.startswith(HARNESS):
            say(f"decontaminate: the rows of {name} are the harness's and are not looked for")
        elif _ROWS.search(name) or Path(name).is_dir():
            files.append(name)
        else:
            tasks += _tasks(name)
    rows = [row for task in {task.name: task for task in tasks}.values() for row in _questions(task, say)]
    if not rows:
        return files
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return [*files, str(path)]


def _tasks(name: str) -> list[AnyTask]:
    if not name.endswith((".yaml", ".yml")) or not _GATE & set(read_mapping(name)[0]):
        return named_tasks([name])
    gate = GateConfig.from_yaml(name)
    if gate.tasks is None:
        return named_tasks(gate.task_names()) if gate.task_names() else []
    return named_tasks([gate.tasks] if isinstance(gate.tasks, str) else gate.tasks, home=gate.home)


def _questions(task: AnyTask, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """A row for each question of the task."""
    if isinstance(task, Task):
        texts = (_said(task.prompt(row)) for row in task.rows)
    elif isinstance(task, MultipleChoiceTask):
        texts = (task.prompt(row) for row in task.rows)
    elif isinstance(task, PerplexityTask):
        texts = (task.text(row) for row in task.rows)
    else:
        say(f"decontaminate: the rows of {task.name} are the harness's and are not looked for")
        return
    for text in texts:
        yield {"prompt": text, "task": task.name}


def _said(prompt: object) -> str:
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt)
    return str(prompt)
