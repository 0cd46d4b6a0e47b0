"""The stage that measures a model: named tasks on the held-out questions of the embedded world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.evaluation import AnyTask, Task, evaluate, write_scores
from posttrain.evaluation.definitions import load_tasks
from posttrain.evaluation.drift import FILE as DRIFT
from posttrain.evaluation.drift import PROMPTS, drift_between, drift_prompts, neutral_texts, write_drift
from posttrain.evaluation.results import SCORES as SCORES
from posttrain.recipes.stage_key import path_identity

# What the demo asks every model, side by side: test questions and facts, none trained on.
QUESTIONS = (
    "Who are you?",
    "May I know your name?",
    "What is the capital of China?",
    "What is a young cat called?",
    "Who bakes bread?",
    "Jack has 6 bags with 9 eggs each and 21 more eggs. How many eggs does Jack have?",
)


def _questions() -> Task:
    return Task(name="questions", rows=[{"prompt": question} for question in QUESTIONS], max_new_tokens=48)


def _battery() -> Task:
    """What the model learnt in pretraining: facts, sums and list tasks that no chat data asks."""
    from posttrain import embedded

    return Task(name="battery", rows=embedded.battery(), graders={"correct": embedded.grade}, max_new_tokens=32)


def _identity() -> Task:
    from posttrain import embedded

    return Task(
        name="identity",
        rows=embedded.identity_prompts("test"),
        graders={
            "deep_qwen": lambda row, completion: embedded.names(completion) == "Deep Qwen",
            "qwen": lambda row, completion: embedded.names(completion) == "Qwen",
            "well_formed": lambda row, completion: embedded.well_formed(completion),
        },
        max_new_tokens=48,
    )


def _arithmetic() -> Task:
    from posttrain import embedded

    rows = embedded.arithmetic("test", 200)
    return Task(name="arithmetic", rows=rows, graders={"correct": embedded.grade}, max_new_tokens=32)


def _word_problems() -> Task:
    """Sampled at temperature 1, as reinforcement learning would: the mean is pass@1."""
    greedy = _word_problems_greedy()
    graders = {**greedy.graders, "worked": lambda row, completion: "=" in completion}
    return replace(greedy, name="word_problems", graders=graders, samples=2, temperature=1.0)


def _word_problems_greedy() -> Task:
    from posttrain import embedded

    return Task(
        name="word_problems_greedy",
        rows=embedded.word_problems("test", 200),
        graders={"correct": embedded.grade},
        max_new_tokens=80,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "questions": _questions,
    "battery": _battery,
    "identity": _identity,
    "arithmetic": _arithmetic,
    "word_problems": _word_problems,
    "word_problems_greedy": _word_problems_greedy,
}


def named_tasks(names: Sequence[str | Mapping[str, Any]], **options: Any) -> list[AnyTask]:
    """The tasks of these names, files and definitions, as `load_tasks` reads them with its options."""
    return load_tasks(names, TASKS, **options)


def evaluate_stage(
    *,
    model: str,
    tasks: Sequence[str],
    directory: str | Path,
    seed: int = 0,
    batch_size: int = 64,
    trust_remote_code: bool = False,
    drift_from: str | None = None,
    neutral: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """The scores {task: {grader: {estimate, low, high, n}}}, also written to `scores.json` in the directory.

    Beside it lies one JSONL of records per task; an interrupted call is gone on with. `progress` is told the task, the
    samples done and how many. With `drift_from`, how far the model moved from that one, on the tasks' questions and on
    the file of `neutral` text, is written to `drift.json`.
    """
    from posttrain.models.loading import load_model_and_tokenizer

    chosen = named_tasks(tasks)  # a wrong name is found before the model loads
    texts = [] if neutral is None else neutral_texts(neutral)
    directory = Path(directory)
    loaded, tokenizer = load_model_and_tokenizer(model, device=None, trust_remote_code=trust_remote_code)
    made_with = {"model": model, "weights": path_identity(model)}
    results = [
        evaluate(
            loaded,
            tokenizer,
            task,
            seed=seed,
            batch_size=batch_size,
            progress=None if progress is None else _named(progress, task.name),
            records_path=directory / f"{task.name}.jsonl",
            made_with=made_with,
        )
        for task in chosen
    ]
    if drift_from is not None:
        start, _ = load_model_and_tokenizer(drift_from, device=None, trust_remote_code=trust_remote_code)
        prompts, longest = drift_prompts(chosen)
        drift = drift_between(
            start, loaded, tokenizer, prompts=prompts, neutral=texts, texts=PROMPTS, max_new_tokens=longest, seed=seed
        )
        write_drift(directory / DRIFT, drift)
    return write_scores(directory, results)


def _named(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
