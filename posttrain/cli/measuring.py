"""What `posttrain evaluate` and `posttrain compare` share: a model on some tasks, with bars and a table."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from posttrain.config.evaluation import EvaluationFields

if TYPE_CHECKING:
    from posttrain.evaluation import AnyTask, Result
    from posttrain.sampling.endpoint import EndpointSampler
    from posttrain.sampling.local import LocalSampler
    from posttrain.stats import Interval


def measure(
    model: str,
    tasks: Sequence[AnyTask],
    directory: Path,
    fields: EvaluationFields,
    *,
    sampler: LocalSampler | EndpointSampler,
) -> list[Result]:
    """The results of the tasks, recorded in the directory, in the order given; `sampler` is the model's."""
    from tqdm import tqdm

    from posttrain.evaluation import evaluate, write_scores
    from posttrain.sampling.endpoint import EndpointSampler

    loaded, tokenizer = (None, None) if isinstance(sampler, EndpointSampler) else (sampler.model, sampler.tokenizer)
    results: list[Result] = []
    for task in tasks:
        with tqdm(desc=task.name, total=len(getattr(task, "rows", ())) or None, disable=None, smoothing=0.1) as bar:

            def show(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            results.append(
                evaluate(
                    loaded,
                    tokenizer,
                    task,
                    seed=fields.seed,
                    batch_size=fields.batch_size,
                    progress=show,
                    records_path=directory / f"{task.name}.jsonl",
                    made_with=made_with(model, fields),
                    sampler=sampler,
                )
            )
            write_scores(directory, results)  # what is done is there, if a later task fails
    return results


def open_subject(model: str, fields: EvaluationFields) -> LocalSampler | EndpointSampler:
    """What answers for the model, with what was chosen for it on stderr."""
    from posttrain.sampling.opening import open_sampler

    return open_sampler(model, getattr(fields, "endpoint", None), cast(Any, fields), note=note)


def made_with(model: str, fields: EvaluationFields) -> dict[str, Any]:
    """What decides the records beside task and seed, so that a file of them is not gone on with by another model."""
    from posttrain.recipes.stage_key import path_identity

    if (endpoint := getattr(fields, "endpoint", None)) is not None:
        return {"model": model, "endpoint": endpoint, "extra_body": getattr(fields, "extra_body", {})}
    return {"model": model, "weights": path_identity(model), "dtype": fields.dtype}


def shown(interval: Interval, grader: str, *, signed: bool = False) -> str:
    """The interval in percent, or as the number it is for what is measured per word, byte or token."""
    if interval.n == 0:
        return "not graded"
    if not any(unit in grader for unit in ("perplexity", "bits_per_byte")):
        if not signed:
            return interval.percent()
        low, high = (f"{100 * bound:+.1f}" for bound in (interval.low, interval.high))
        return f"{100 * interval.estimate:+.1f} [{low}, {high}]"
    sign = "+" if signed else ""
    estimate, low, high = (f"{value:{sign}.4g}" for value in (interval.estimate, interval.low, interval.high))
    return estimate if math.isnan(interval.low) else f"{estimate} [{low}, {high}]"


def note(text: str) -> None:
    """A note on stderr."""
    print(f"note: {text}", file=sys.stderr)
