"""The process that tries a stage: `python -m posttrain.recipes.estimating.probe`, its task as JSON on stdin.

It reads the stage's rows as the run would, takes a few of them, and lets the stage's own trainer train on these for a
few steps in a directory that is thrown away. What it sees goes out as lines of JSON. A process of its own, because a
peak of memory can be counted only once, and because what does not fit is killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tell = Callable[..., None]


def main() -> None:
    """Tries the stage on stdin. What libraries print goes to a log beside the trial."""
    began = time.perf_counter() - _alive()
    task = json.load(sys.stdin)
    directory = Path(task["directory"])
    out = os.fdopen(os.dup(1), "w")
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def tell(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, "at": time.perf_counter(), **values}) + "\n")
        out.flush()

    from posttrain.errors import PosttrainError

    try:
        try_stage(task, directory, tell, began)
    except PosttrainError as error:
        tell("error", text=str(error))
    except MemoryError:
        tell("error", text="out of memory")
    out.flush()
    os._exit(0)  # workers of rewards, threads of libraries: all of it is thrown away


def _alive() -> float:
    """Seconds since this process was started, where the system tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def try_stage(task: dict[str, Any], directory: Path, tell: Tell, began: float) -> None:
    """Tells what a stage takes: what follows from its model and its rows, and what a trial of some steps shows.

    Nothing is tried where that does not fit, or with no seconds to try in.
    """
    import torch

    from posttrain.config.methods import METHODS
    from posttrain.engine.machine import available_memory, resident_bytes
    from posttrain.models.loading import accelerator
    from posttrain.recipes.estimating.composition import compose
    from posttrain.recipes.estimating.schedule import schedule
    from posttrain.recipes.estimating.sizes import read_sizes
    from posttrain.recipes.estimating.trial import Trial
    from posttrain.trainers.assembly import resolve_tokenizer

    method, seconds = task["method"], float(task["seconds"])
    command: Any = METHODS[method].fields.from_values(task["values"])
    config: Any = command.training()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = torch.device("cpu" if config.use_cpu else accelerator() or "cpu")
    tell("imported", seconds=time.perf_counter() - began, resident=resident_bytes())
    composed = compose(command.model, config, adapter=command.peft_settings(), scores=method == "reward", device=device)
    available = available_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    tell(
        "composed", parts=composed.parts(), parameters=composed.parameters, trained=composed.trained,
        model_file=composed.model_file, checkpoint=composed.checkpoint, available=available, device=device.type,
    )  # fmt: skip
    tokenizer = resolve_tokenizer(command.model, None, config)
    before = resident_bytes()
    train = read_sizes(method, command.data("train_dataset"), tokenizer, config, name="train_dataset")
    evaluation = None
    if (judged := command.data("eval_dataset")) is not None:
        evaluation = read_sizes(method, judged, tokenizer, config, name="eval_dataset")
    plan = schedule(config, train.count, evaluates=evaluation is not None)
    tell(
        "read", seconds=train.seconds + (0.0 if evaluation is None else evaluation.seconds), rows=len(train.rows),
        share=train.share, units=train.count, tokens=train.tokens, mean=train.mean,
        spread=_spread([unit.tokens for unit in train.units]),
        longest=max(unit.tokens for unit in train.units), bytes=(resident_bytes() - before),
        evaluated_units=0 if evaluation is None else evaluation.count,
        evaluated_tokens=0.0 if evaluation is None else evaluation.tokens, schedule=vars(plan),
    )  # fmt: skip
    if seconds <= 0 or (available is not None and composed.held > available):
        return
    trial = Trial(task=task, command=command, plan=plan, train=train, evaluation=evaluation, directory=directory)
    trial.run(tell, composed, device)


def _spread(values: list[int]) -> float:
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


if __name__ == "__main__":
    main()
