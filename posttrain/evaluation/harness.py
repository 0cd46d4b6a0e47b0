"""Tasks of lm-evaluation-harness, run by the harness itself, their samples as records."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, nearest
from posttrain.evaluation.loglikelihood import in_eval_mode
from posttrain.evaluation.records import Record, kept_records, write_records
from posttrain.evaluation.results import Result, graders_of, perplexities, score
from posttrain.evaluation.tasks import HarnessTask
from posttrain.stats import Interval

_PERPLEXITY = "byte_perplexity"  # of which the harness keeps (log-likelihood, bytes) for each text


def require_harness() -> None:
    """Raises ConfigError where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            'tasks of lm-evaluation-harness need lm-eval, which is not installed: pip install "posttrain[lm-eval]"'
        )


def run_harness(
    model: Any,
    tokenizer: Any,
    task: HarnessTask,
    *,
    batch_size: int,
    records_path: str | Path | None,
    settings: Mapping[str, Any] | None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """The result of the harness's task, its prompts, shots, seeds and metrics the harness's own.

    A group of tasks is one, its parts the kinds of question. A grade is named as the harness names it: `acc`, or with
    the filter, `exact_match,strict-match`. The records are written when all is done.
    """
    kept = None if records_path is None else kept_records(records_path, task.name, settings)
    records = _run(model, tokenizer, task, batch_size) if kept is None else kept
    if records_path is not None and kept is None:
        write_records(records_path, records, task=task.name, settings=settings)
    if progress is not None:
        progress(len(records), len(records))
    return Result(name=task.name, n=len(records), samples=1, scores=_scores(records), records=tuple(records))


def _run(model: Any, tokenizer: Any, task: HarnessTask, batch_size: int) -> list[Record]:
    require_harness()
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    include = None if task.include_path is None else str(task.include_path)
    manager = TaskManager(include_path=include)
    if task.task not in manager.all_tasks:
        where = "" if include is None else f", and {include} defines none"
        raise ConfigError(
            f"lm-evaluation-harness has no task {task.task!r}{where}{nearest(task.task, manager.all_tasks)}"
        )
    with in_eval_mode(model):
        found = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=[task.task],
            task_manager=manager,
            num_fewshot=task.num_fewshot,
            limit=task.limit,
            apply_chat_template=task.chat_template,
            bootstrap_iters=0,
            log_samples=True,
        )
    records: list[Record] = []
    for part, samples in found["samples"].items():
        better = found["higher_is_better"].get(part, {})
        ordered = sorted(samples, key=lambda sample: sample["doc_id"])  # one after the other with each filter
        for _, filtered in groupby(ordered, key=lambda sample: sample["doc_id"]):
            records.append(_record(task.name, part, len(records) + 1, list(filtered), better))
    return records


def _record(task: str, part: str, row: int, filtered: Sequence[Mapping[str, Any]], better: Mapping[str, Any]) -> Record:
    """The record of one document, which was graded once with each filter."""
    first = filtered[0]
    grades: dict[str, float | None] = {}
    measures: dict[str, Any] = {}
    for sample in filtered:
        for metric in sample["metrics"]:
            name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            value = _number(sample[metric])
            if value is not None and 0 <= value <= 1 and better.get(metric, True):
                grades[name] = value
            elif value is not None:
                measures[name] = value
    arguments, responses = first["arguments"], [response[0] for response in first["resps"]]
    if _PERPLEXITY in first["metrics"]:
        loglikelihood, count = first[_PERPLEXITY]
        measures |= {"loglikelihood": float(loglikelihood), "bytes": int(count)}
        if "word_perplexity" in first["metrics"]:
            measures["words"] = int(first["word_perplexity"][1])
        prompt, completion, answer = str(arguments[0][0]), "", None
    elif isinstance(responses[0], tuple | list):  # (log-likelihood, greedy) of each choice
        prompt, choices = str(arguments[0][0]), [str(argument[-1]).strip() for argument in arguments]
        values = [float(response[0]) for response in responses]
        target = first["target"]
        completion = choices[max(range(len(values)), key=lambda place: values[place])]
        answer = choices[target] if isinstance(target, int) and target < len(choices) else str(target)
        measures |= {"choices": choices, "loglikelihoods": values}
    else:
        prompt, completion, answer = str(arguments[0][0]), str(responses[0]), str(first["target"])
    return Record(
        task=task, row=row, sample=1, prompt=prompt, completion=completion, grades=grades,
        kind=None if part == task else part, answer=answer, measures=measures,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    """A metric's value for one document; the mean of several that belong together; None for what is neither."""
    if isinstance(value, list) and value and all(isinstance(item, bool | int | float) for item in value):
        return sum(value) / len(value)
    plain = value.item() if hasattr(value, "item") else value
    return float(plain) if isinstance(plain, bool | int | float) else None


def _scores(records: Sequence[Record]) -> dict[str, Interval]:
    scores = {name: score(records, name) for name in graders_of(records)}
    if records and all("loglikelihood" in record.measures for record in records):
        scores |= perplexities(records)
    return scores
