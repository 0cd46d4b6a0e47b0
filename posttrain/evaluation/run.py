"""Running a task: every question answered, graded and recorded, as it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from posttrain.errors import ModelError
from posttrain.evaluation.graders import Graders, described
from posttrain.evaluation.places import at
from posttrain.evaluation.records import Record, RecordFile
from posttrain.evaluation.results import Result, perplexities, score, several
from posttrain.evaluation.tasks import AnyTask, HarnessTask, MultipleChoiceTask, PerplexityTask, Task
from posttrain.stats import Interval
from posttrain.types import Sampler

_SHORT_S, _LONG_S = 10.0, 40.0  # what an interruption may lose

Progress = Callable[[int, int], None]


class _Way(Protocol):
    def records(self, rows: Sequence[int], progress: Callable[[int], None]) -> list[Record]: ...


def evaluate(
    model: Any,
    tokenizer: Any,
    task: AnyTask,
    *,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
    records_path: str | Path | None = None,
    made_with: Mapping[str, Any] | None = None,
    sampler: Sampler | None = None,
) -> Result:
    """The task's result on this model, in the order of its rows.

    The seed matters where a task samples; how many answers are written at once, `batch_size`, changes none of them.
    `records_path` gets one JSON line per sample, block by block, and has its name once it is whole. With `made_with`,
    what else decides the records (which model, how it was loaded), an evaluation that was interrupted is gone on with,
    one that is whole is read, and one of other settings is refused with a ConfigError. `sampler` answers in the place
    of the model, which may then be None. `progress(done, total)` counts samples.

    Raises DataError for a row without a prompt or a grade outside 0 to 1 and RewardError for a grader that fails,
    naming task and row; anything else that a grader of one row raises goes through with a note that does.
    """
    if model is None and (sampler is None or not isinstance(task, Task)):
        raise ModelError(f"task {task.name!r} needs a model on this machine; one behind an endpoint only answers")
    if isinstance(task, HarnessTask):
        from posttrain.evaluation.harness import run_harness

        settings = None if made_with is None else {**task_settings(task, seed), **made_with}
        return run_harness(
            model, tokenizer, task, batch_size=batch_size, records_path=records_path, settings=settings,
            progress=progress,
        )  # fmt: skip
    samples = task.samples if isinstance(task, Task) else 1
    total = len(task.rows) * samples
    with contextlib.ExitStack() as stack:
        kept = None
        if records_path is not None:
            settings = None if made_with is None else {**task_settings(task, seed), **made_with}
            kept = RecordFile(records_path, task.name, rows=len(task.rows), samples=samples, settings=settings)
        waiting = list(range(len(task.rows))) if kept is None else kept.waiting
        graders = stack.enter_context(Graders(task.graders)) if isinstance(task, Task) else None
        records: list[Record] = []
        if waiting:
            way = stack.enter_context(_opened(model, tokenizer, task, graders, seed, batch_size, sampler))

            def report(done: int) -> None:
                if progress is not None:
                    progress(total - len(waiting) * samples + len(records) + done, total)

            at_once = kept is None and isinstance(task, Task)  # the sampler keeps its rows full to the end
            blocks = [waiting] if at_once else _blocks(waiting, max(1, batch_size // samples))
            for block in blocks:
                found = way.records(block, report)
                if kept is not None:
                    kept.add(found)
                records += found
        elif progress is not None:
            progress(total, total)
    whole = records if kept is None else kept.finish()
    return Result(
        name=task.name,
        n=len(task.rows),
        samples=samples,
        scores=_scores(task, whole),
        records=tuple(whole),
        unjudged={} if graders is None else graders.unjudged,
    )


@contextlib.contextmanager
def _opened(
    model: Any, tokenizer: Any, task: AnyTask, graders: Graders | None, seed: int, batch_size: int,
    sampler: Sampler | None,
) -> Iterator[_Way]:  # fmt: skip
    """What measures the task."""
    if isinstance(task, Task):
        from posttrain.evaluation.generation import Generation
        from posttrain.sampling.local import LocalSampler

        assert graders is not None
        own = LocalSampler(model, tokenizer, max_rows=batch_size) if sampler is None else sampler
        yield Generation(task, own, tokenizer, graders, seed=seed)
        return
    from posttrain.evaluation.loglikelihood import learner_of

    with learner_of(model) as learner:
        if isinstance(task, MultipleChoiceTask):
            from posttrain.evaluation.multiple_choice import MultipleChoice

            yield MultipleChoice(task, learner, tokenizer)
        else:
            from posttrain.evaluation.perplexity import Perplexity

            assert isinstance(task, PerplexityTask)
            yield Perplexity(task, learner, tokenizer)


def _blocks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The rows in blocks, each about as long as an interruption may cost."""
    start = 0
    while start < len(rows):
        clock = time.monotonic()
        yield rows[start : start + size]
        start += size
        took = time.monotonic() - clock
        size = size * 2 if took < _SHORT_S else max(size // 2, 1) if took > _LONG_S else size


def _scores(task: AnyTask, records: Sequence[Record]) -> dict[str, Interval]:
    if isinstance(task, PerplexityTask):
        return perplexities(records)
    names = task.graders if isinstance(task, Task) else task.measures if isinstance(task, MultipleChoiceTask) else ()
    scores = {name: score(records, name) for name in names}
    if isinstance(task, Task) and task.samples > 1 and names:
        scores |= several(records, next(iter(names)), task.samples)
    return scores


def task_settings(task: AnyTask, seed: int) -> dict[str, Any]:
    """What decides a task's records, the model aside, for JSON: what is asked as a hash, the rest as it is."""
    values: dict[str, Any] = {"kind": _KINDS[type(task)]}
    rows = () if isinstance(task, HarnessTask) else task.rows
    for field in dataclasses.fields(task):
        value = getattr(task, field.name)
        if field.name == "graders":
            values["graders"] = {name: described(grader) for name, grader in value.items()}
        elif field.name not in ("name", "rows") and not callable(value):
            values[field.name] = str(value) if isinstance(value, Path) else value
    if rows:
        digest = hashlib.sha256()
        for number, row in enumerate(rows, start=1):
            with at(f"task {task.name!r}, row {number}"):
                asked = [_asked(task, row), dict(row)]
            digest.update(json.dumps(asked, sort_keys=True, default=str).encode())
        values |= {"rows": len(rows), "content": digest.hexdigest()}
    if isinstance(task, Task):
        values["seed"] = seed
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _asked(task: AnyTask, row: Mapping[str, Any]) -> Any:
    if isinstance(task, Task):
        return task.prompt(row)
    if isinstance(task, MultipleChoiceTask):
        return [task.prompt(row), list(task.choices(row)), task.answer(row)]
    return None if isinstance(task, HarnessTask) else task.text(row)


_KINDS = {
    Task: "generation",
    MultipleChoiceTask: "multiple_choice",
    PerplexityTask: "perplexity",
    HarnessTask: "lm_eval",
}
