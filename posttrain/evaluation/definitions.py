"""Tasks by what stands on a command line or in a recipe: names, files, definitions, functions, lm_eval:NAME."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import TaskConfig, read_task_configs, task_configs
from posttrain.data.loading import Rows, load_rows
from posttrain.errors import ConfigError, DataError, nearest
from posttrain.evaluation.graders import Graders
from posttrain.evaluation.harness import require_harness
from posttrain.evaluation.known import choice_task, generic_task, known_task, text_task
from posttrain.evaluation.places import at
from posttrain.evaluation.tasks import AnyTask, HarnessTask, MultipleChoiceTask, PerplexityTask, Row, Task
from posttrain.rewards.files import load_function

HARNESS = "lm_eval:"
_DATA = re.compile(r"\.(jsonl|ndjson|json|parquet|csv|tsv|txt)(\.gz)?$", re.IGNORECASE)
_FUNCTION = re.compile(r".+\.py(:.*)?$")
_COLUMN = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
_NAME = re.compile(r"[^/\\\0]+")


def load_tasks(
    specs: Sequence[str | Mapping[str, Any]],
    named: Mapping[str, Callable[[], AnyTask]],
    *,
    limit: int | None = None,
    include_path: str | Path | None = None,
    home: Path = Path(),
) -> list[AnyTask]:
    """The tasks that these stand for, checked as far as is possible without a model.

    A spec is a name of `named`; a .yaml with definitions; a file of rows whose columns are known, or a .txt;
    `file.py:function` or `package.module:function`, which gives a task or several; `lm_eval:NAME`; or a definition
    itself, whose files are relative to `home`. `limit` keeps the first rows of each; `include_path` is where the
    harness looks for further tasks.
    """
    if not specs:
        raise ConfigError(f"tasks is empty: name at least one of {', '.join(named)}, or a file")
    tasks = [
        _limited(task, limit)
        for spec in specs
        for task in (
            _tasks(spec, named, None if include_path is None else Path(include_path))
            if isinstance(spec, str)
            else [task_from(config) for config in task_configs([spec], "tasks", home=home)]
        )
    ]
    for number, task in enumerate(tasks):
        if task.name in [other.name for other in tasks[:number]]:
            raise ConfigError(
                f"two tasks are called {task.name!r}; give one another name, in a .yaml with name and file"
            )
        _check(task)
    return tasks


def task_from(config: TaskConfig) -> AnyTask:
    """The task of a definition. Raises ConfigError or DataError for rows that do not fit it."""
    if config.lm_eval is not None:
        return HarnessTask(
            name=config.name or config.lm_eval,
            task=config.lm_eval,
            include_path=None if config.include_path is None else Path(config.include_path),
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            chat_template=bool(config.chat_template),
        )
    assert config.file is not None, "the configuration has seen to it"
    rows = _rows(Path(config.file))
    name = config.name or _stem(Path(config.file))
    found = known_task(rows, name)
    kind = config.kind or _kind(config, found)
    if kind == "perplexity":
        task: AnyTask = text_task(rows, name, column=config.text, max_length=config.max_length)
    elif kind == "multiple_choice":
        task = _choices(config, rows, name)
    else:
        task = _questions(config, found if isinstance(found, Task) else generic_task(rows, name), rows)
    return _limited(task, config.limit)


def template(text: str) -> Callable[[Row], str]:
    """A prompt with `{column}` for what the row holds there; `{{` and `}}` are braces, and `{}` is itself."""

    def prompt(row: Row) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            if row.get(match[1]) is None:
                raise DataError(
                    f"the prompt has {{{match[1]}}}, and the row has no such column{nearest(match[1], map(str, row))}"
                    f" (columns: {', '.join(map(str, row))}); for braces of your own write {{{{ and }}}}"
                )
            return str(row[match[1]])

        return _COLUMN.sub(value, text)

    return prompt


def _tasks(spec: str, named: Mapping[str, Callable[[], AnyTask]], include_path: Path | None) -> list[AnyTask]:
    path = Path(spec).expanduser()
    if spec in named:
        return [named[spec]()]
    if spec.startswith(HARNESS):
        task = spec.removeprefix(HARNESS)
        return [HarnessTask(name=task, task=task, include_path=include_path)]
    if path.suffix in (".yaml", ".yml"):
        tasks = []
        for config in read_task_configs(path):
            with at(f"{spec}: task {config.name or config.file or config.lm_eval}"):
                tasks.append(task_from(config))
        return tasks
    if _DATA.search(spec) or path.is_dir():
        return [_from_file(path)]
    if _FUNCTION.fullmatch(spec) or ":" in spec:
        return _from_function(spec)
    raise ConfigError(
        f"unknown task {spec!r}{nearest(spec, named)}; known tasks: {', '.join(named)}; others are a file of rows, a"
        " .yaml with definitions, file.py:function, or lm_eval:NAME"
    )


def _from_file(path: Path) -> AnyTask:
    rows = _rows(path)
    task = known_task(rows, _stem(path))
    if task is None:
        raise DataError(
            f"{path}: the columns {', '.join(map(str, rows[0]))} do not tell how the rows are asked and graded. Say it"
            f' in a tasks.yaml:\n  name: {_stem(path)}\n  file: {path.name}\n  prompt: "{{{next(iter(rows[0]))}}}"\n'
            "  grader: final_answer\n  max_new_tokens: 256"
        )
    return task


def _from_function(spec: str) -> list[AnyTask]:
    made = load_function(spec)()
    found = [made] if isinstance(made, AnyTask) else made
    if not isinstance(found, list | tuple) or not found or not all(isinstance(task, AnyTask) for task in found):
        raise ConfigError(f"{spec} returned {type(made).__name__} {made!r:.60}; it must return a Task, or several")
    return list(found)


def _kind(config: TaskConfig, found: AnyTask | None) -> str:
    """How a task is measured whose definition does not say it."""
    given = config.model_fields_set
    if config.grader in ("acc", "acc_norm") or given & {"choices", "letters", "delimiter"}:
        return "multiple_choice"
    if given & {"text", "max_length"}:
        return "perplexity"
    if given & {"grader", "graders", "max_new_tokens", "samples", "temperature", "stop"} or found is None:
        return "generation"
    kinds = {MultipleChoiceTask: "multiple_choice", PerplexityTask: "perplexity"}
    return kinds.get(type(found), "generation")


def _choices(config: TaskConfig, rows: Rows, name: str) -> MultipleChoiceTask:
    return choice_task(
        rows,
        name,
        choices=config.choices,
        answer=config.answer,
        prompt=None if config.prompt is None else template(config.prompt),
        letters=config.letters,
        delimiter=config.delimiter,
        headline=config.grader or "acc",
        system_message=config.system_message,
        chat_template=bool(config.chat_template),
    )


def _questions(config: TaskConfig, task: Task, rows: Rows) -> Task:
    """The task as its file tells it, with what the definition says in its place."""
    changes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("max_new_tokens", "samples", "temperature", "system_message", "chat_template")
        if name in config.model_fields_set and getattr(config, name) is not None
    }
    if "stop" in config.model_fields_set:
        changes["stop"] = tuple(config.stop)
    if config.prompt is not None:
        changes["prompt"] = template(config.prompt)
    if config.graders is not None:
        changes["graders"] = config.graders
    elif config.grader is not None:
        given = config.grader
        named = str(given if isinstance(given, str) else given.get("name")).rpartition(":")[2]
        changes["graders"] = {named: given}
    elif not task.graders:
        raise ConfigError(
            f"{rows.source}: no grader is known for the columns {', '.join(map(str, rows[0]))}; write grader: with a"
            " reward, or graders: {} to keep the answers only"
        )
    changes.setdefault("max_new_tokens", config.max_new_tokens if not task.graders else task.max_new_tokens)
    return dataclasses.replace(task, **changes)


def _rows(path: Path) -> Rows:
    if path.suffix.lower() == ".txt" and path.is_file():
        text = path.read_text(encoding="utf-8")
        return Rows(name="tasks", path=str(path), records=[{"text": text}] if text else [])
    return load_rows(path, name="tasks")


def _stem(path: Path) -> str:
    return _DATA.sub("", path.name)


def _limited(task: AnyTask, limit: int | None) -> AnyTask:
    if limit is None:
        return task
    if isinstance(task, HarnessTask):
        return dataclasses.replace(task, limit=limit if task.limit is None else min(limit, task.limit))
    return dataclasses.replace(task, rows=task.rows[:limit])


def _check(task: AnyTask) -> None:
    if not _NAME.fullmatch(task.name) or task.name.startswith("."):
        raise ConfigError(f"task {task.name!r}: the name becomes a file's; use letters, digits, - and _")
    if isinstance(task, HarnessTask):
        require_harness()
    elif isinstance(task, Task):
        with at(f"task {task.name!r}"), Graders(task.graders) as graders:
            graders.check(task.rows)
            task.messages(task.rows[0])
    elif isinstance(task, MultipleChoiceTask):
        with at(f"task {task.name!r}, row 1"):
            task.answer(task.rows[0])
