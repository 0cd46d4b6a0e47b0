"""What a task is defined by in YAML, and what `posttrain evaluate` and `posttrain compare` are told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config.base import Config, option
from posttrain.config.yaml_file import Lines, read_mapping
from posttrain.errors import ConfigError

_WHAT, _ASK, _CHOOSE, _READ, _HARNESS = "Model and data", "Generation", "Multiple choice", "Perplexity", "lm-eval"
_HERE, _THERE = "A model on this machine", "A model behind an endpoint"

Kind = Literal["generation", "multiple_choice", "perplexity"]

_OF_KIND: dict[str, tuple[str, ...]] = {
    "generation": ("max_new_tokens", "samples", "temperature", "stop", "graders"),
    "multiple_choice": ("choices", "answer", "letters", "delimiter"),
    "perplexity": ("text", "max_length"),
}
_OF_HARNESS = ("name", "lm_eval", "include_path", "num_fewshot", "limit", "chat_template")


class TaskConfig(Config):
    """One task of a `tasks.yaml`. What is left out follows from the columns of the file, where these are known."""

    name: str | None = option(None, "The task's name; none = the file's.", group=_WHAT)
    file: str | None = option(None, "Rows (.jsonl, .json, .parquet, .csv), or a .txt as one text.", group=_WHAT)
    kind: Kind | None = option(None, "How it is measured; none = as the columns say.", group=_WHAT)
    prompt: str | None = option(
        None, "The prompt, with {column} for what a column holds; none = the column prompt, or as known.", group=_WHAT
    )
    system_message: str | None = option(None, "A system message before each prompt.", group=_WHAT)
    chat_template: bool | None = option(
        None, "The prompt as a user's message; none = true for generation, else false.", group=_WHAT
    )
    limit: int | None = option(None, "Only so many rows, from the first.", group=_WHAT, ge=1)
    grader: str | dict[str, Any] | None = option(
        None,
        "A reward: a name, file.py:function, or {name: ..., option: ...}; of choices acc or acc_norm.",
        group=_ASK,
    )
    graders: dict[str, Any] | None = option(
        None, "Several graders by the names they are shown under; the first is the headline.", group=_ASK
    )
    max_new_tokens: int = option(256, "Tokens of an answer at most.", group=_ASK, ge=1)
    samples: int = option(1, "Answers to each question.", group=_ASK, ge=1)
    temperature: float = option(0.0, "0 takes the likeliest token.", group=_ASK, ge=0)
    stop: list[str] = option([], "Texts that end an answer and are cut off.", group=_ASK)
    choices: str | None = option(None, "Column with the list of choices; none = as known.", group=_CHOOSE)
    answer: str | None = option(
        None, "Column with the right choice: its place from 0, its letter or its text.", group=_CHOOSE
    )
    letters: bool = option(False, "Show the choices in the prompt as A, B, C ... and score the letters.", group=_CHOOSE)
    delimiter: str = option(" ", "What stands between prompt and choice.", group=_CHOOSE)
    text: str | None = option(None, "Column with the text; none = text.", group=_READ)
    max_length: int | None = option(None, "Tokens of a window; none = the model's positions.", group=_READ, ge=2)
    lm_eval: str | None = option(None, "A task of lm-evaluation-harness, by its name there.", group=_HARNESS)
    include_path: str | None = option(None, "Directory with further tasks of the harness.", group=_HARNESS)
    num_fewshot: int | None = option(None, "Examples before each question.", group=_HARNESS, ge=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        given = self.model_fields_set
        if self.lm_eval is not None:
            for name in sorted(given - set(_OF_HARNESS)):
                yield name, f"{name} has no effect together with lm_eval, which asks and grades as it is published"
            return
        if self.file is None:
            yield "file", "a task needs a file with its rows, or lm_eval with the name of a task of the harness"
        for name in sorted(given & {"include_path", "num_fewshot"}):
            yield name, f"{name} has an effect only together with lm_eval"
        if self.grader is not None and self.graders is not None:
            yield "grader", "grader and graders contradict each other; write graders for several"
        for kind, names in _OF_KIND.items():
            for name in sorted(given & set(names) if self.kind not in (None, kind) else ()):
                yield name, f"{name} has an effect only with kind: {kind}, and the kind is {self.kind}"
        if self.kind == "multiple_choice" and self.grader not in (None, "acc", "acc_norm"):
            yield "grader", f"grader={self.grader!r}: a multiple choice is graded by acc or acc_norm"
        if self.kind == "perplexity":
            for name in sorted(given & {"grader", "prompt", "system_message", "chat_template"}):
                yield name, f"{name} has no effect on perplexity"


def read_task_configs(path: str | os.PathLike[str]) -> list[TaskConfig]:
    """The tasks that a YAML file defines: its fields are a task's, or `tasks` is a list of such.

    Files and `file.py:function` are named relative to the YAML file. Raises ConfigError with file and line.
    """
    values, lines = read_mapping(path)
    source, home = os.fspath(path), Path(path).parent
    if "tasks" not in values:
        return [_task(values, {(key[0],): line for key, line in lines.items()}, source, 1, home)]
    for key in values:
        if key != "tasks":
            raise ConfigError(f"{source} line {lines[(key,)]}: {key!r} stands beside tasks; put it into one of them")
    return task_configs(values["tasks"], source, home=home, lines=lines)


def task_configs(
    given: Any, source: str, *, home: Path = Path(), lines: Lines | None = None, key: str = "tasks"
) -> list[TaskConfig]:
    """The tasks of a list of mappings, as `read_task_configs` reads them; `key` is what the list stands under."""
    lines = {} if lines is None else lines
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ConfigError(f"{source}: {key} must be a list of tasks, each with its fields, at least one")
    tasks = []
    for index, values in enumerate(given):
        line = lines.get((key, index), 1)
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source} line {line}: a task holds fields (name, file, ...), not {values!r:.60}")
        own = {(name,): at for (*before, name), at in lines.items() if before == [key, index]}
        tasks.append(_task(values, own, source, line, home))
    return tasks


def _task(values: Mapping[str, Any], lines: Mapping[Any, int], source: str, line: int, home: Path) -> TaskConfig:
    places = {name: f"{source} line {lines.get((name,), line)}" for name in (*TaskConfig.model_fields, *values)}
    changed = dict(values)
    for name in ("file", "include_path"):
        if isinstance(value := changed.get(name), str):
            changed[name] = str(home / Path(value).expanduser())
    if isinstance(changed.get("graders"), Mapping):
        changed["graders"] = {str(name): _there(grader, home) for name, grader in changed["graders"].items()}
    if "grader" in changed:
        changed["grader"] = _there(changed["grader"], home)
    return TaskConfig.from_values(changed, places)


def _there(grader: Any, home: Path) -> Any:
    """A grader whose file, if it names one, is found from anywhere."""
    if isinstance(grader, Mapping):
        return {**grader, "name": _there(grader.get("name"), home)}
    if isinstance(grader, str) and ".py" in grader:
        return str(home / Path(grader).expanduser())
    return grader


class EvaluationFields(Config):
    """How models are measured."""

    seed: int = option(0, "Seed where a task samples.", group=_WHAT, ge=0)
    limit: int | None = option(None, "Only so many rows of each task, from the first.", group=_WHAT, ge=1)
    include_path: str | None = option(None, "Directory with further tasks of lm-eval.", group=_WHAT)
    batch_size: int = option(64, "Answers written at once; changes none of them.", group=_HERE, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None, "Precision of the weights; none = as saved on a GPU, float32 elsewhere.", group=_HERE
    )
    use_cpu: bool = option(False, "Leave a GPU alone.", group=_HERE)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_HERE)

    @field_validator("tasks", mode="before", check_fields=False)
    @classmethod
    def _apart(cls, value: Any) -> Any:
        """`a,b` is two tasks, as is a list."""
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return value
        return [name.strip() for word in words for name in word.split(",") if name.strip()]

    @property
    def max_rows(self) -> int:
        """What a sampler calls it."""
        return self.batch_size


class EvaluateCommand(EvaluationFields):
    """`posttrain evaluate`: one model on some tasks."""

    model: str = option(..., "Directory or name of the model; with endpoint, its name there.", group=_WHAT)
    tasks: list[str] = option(
        ..., "Files of rows, tasks.yaml, file.py:function, lm_eval:NAME, and names of tasks.", group=_WHAT, min_length=1
    )
    output: str = option("evaluation", "Directory for the records and scores.", group=_WHAT)
    endpoint: str | None = option(
        None, "Address of an OpenAI-compatible server, such as http://localhost:8000/v1.", group=_WHAT
    )
    api_key_variable: str = option(
        "OPENAI_API_KEY", "Environment variable with the server's key; it is written nowhere.", group=_THERE
    )
    timeout_s: float = option(120.0, "Seconds for one request.", group=_THERE, gt=0)
    max_retries: int = option(6, "Repetitions of a request after 429, 5xx and broken connections.", group=_THERE, ge=0)
    concurrency: int = option(8, "Requests under way at once.", group=_THERE, ge=1)
    extra_body: dict[str, Any] = option({}, "Fields added to each request; null takes one out.", group=_THERE)

    _of_models: ClassVar = ("dtype", "use_cpu", "trust_remote_code", "batch_size")
    _of_endpoints: ClassVar = ("api_key_variable", "timeout_s", "max_retries", "concurrency", "extra_body")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        names, word = (self._of_models, "without") if self.endpoint is not None else (self._of_endpoints, "with")
        for name in sorted(self.model_fields_set & set(names)):
            yield name, f"{name} has an effect only {word} endpoint"


class CompareCommand(EvaluationFields):
    """`posttrain compare`: two models, or two evaluations, on the same questions."""

    before: str = option(..., "Model, or a directory that posttrain evaluate wrote.", group=_WHAT)
    after: str = option(..., "The same, of what is compared with it.", group=_WHAT)
    tasks: list[str] | None = option(
        None, "As of posttrain evaluate; none = those the directories share, or the gate's.", group=_WHAT
    )
    gate: str | None = option(None, "gate.yaml, which decides: exit status 0, or 4 if it fails.", group=_WHAT)
    output: str = option("comparison", "Directory for comparison.json and what had to be measured.", group=_WHAT)
    change: float = option(
        0.02, "Change one wants to see, as a share; how many questions it needs is told.", group=_WHAT, gt=0, lt=1
    )
    drift: bool = option(True, "Measure how far the second of two models is from the first.", group=_WHAT)
    neutral: str | None = option(
        None, "Text (.txt, or rows with a column text) that drift is measured on, too; none = the gate's.", group=_WHAT
    )
    flips: int = option(3, "Flips to show each way.", group=_WHAT, ge=0)
