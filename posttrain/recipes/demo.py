"""`posttrain demo`: the built-in recipe on the embedded model, told as a story."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, TaskID
from rich.rule import Rule
from rich.text import Text

from posttrain.config.methods import METHODS
from posttrain.recipes import demo_full, demo_view
from posttrain.recipes.demo_results import (
    DemoRun,
    checks,
    over_seeds,
    plain,
    read_answers,
    read_run,
)
from posttrain.recipes.demo_view import MODELS
from posttrain.report import write_report
from posttrain.report.subject import find_subject
from posttrain.report.verdict import compared, verdict

RECIPE = Path(__file__).with_name("demo.yaml")
FULL = Path(__file__).with_name("full.yaml")  # the same, and what comes after it

INTRODUCTION = (
    "A base model only continues text. Two trainings make it an assistant with a name of its own: [bold]SFT[/] "
    'shows it conversations; [bold]DPO[/] shows it its own answers beside corrected ones, with "Deep Qwen" for '
    '"Qwen"; [bold]GRPO[/] lets it try word problems and tells it which of its answers were right. All four models get '
    "the same questions, and what each training cost is measured too.\n"
    "The model is tiny (1M parameters, pretrained by this project on a small world of its own), so this takes "
    "two or three minutes; a real model takes the same recipe with one line changed."
)

# What a stage does, said before it runs.
STORY = {
    "start": ("The base model and its data", "conversations for SFT, questions for DPO, as JSONL files"),
    "base_scores": ("Questions to the base model", "put as a chat, which it was never taught"),
    "sft": ("SFT", "conversations, one pass, only the assistant's turns are trained"),
    "sft_scores": ("The same questions after SFT", "none of them is asked in those conversations"),
    "pairs": (
        "Preference pairs by correction",
        'its own answers, rejected; with "Deep Qwen" for "Qwen", chosen',
    ),
    "dpo": ("DPO", "prefer the corrected answer to one's own, without moving far from it"),
    "dpo_scores": ("The same questions after DPO", "did the name change, and did anything else?"),
    "grpo": ("GRPO", "eight answers to each word problem; those that are right become likelier"),
    "grpo_scores": ("The same questions after GRPO", "does it solve more, and is it still Deep Qwen?"),
}

# Stages that load a model as earlier ones did: what loading prints is heard once.
_SILENT = ("sft_scores", "pairs", "dpo_scores", "grpo_scores", *demo_full.SILENT)


def run_demo(
    output_dir: str | os.PathLike[str] = "runs/demo",
    seed: int = 0,
    *,
    seeds: int = 1,
    full: bool = False,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """The summary that is also written to `demo.json`: scores per seed and over seeds, promises, seconds.

    Runs the recipe once per seed, `seed`, `seed + 1`, ..., each in its own directory below `output_dir`. What
    an earlier call finished is not run again. `overrides` are the recipe's, as `sft.learning_rate=5e-4`. `full` goes
    on with PPO, a reward model and offline reinforcement learning, and compares them with GRPO.
    """
    console = console or _console()
    directory = Path(output_dir)
    started = time.perf_counter()
    console.print(Panel(INTRODUCTION, title="posttrain demo", border_style="cyan"))
    runs: list[DemoRun] = []
    with _one_thread():
        for number in range(seed, seed + seeds):
            if seeds > 1:
                console.print(Rule(f"seed {number}"))
            runs.append(_run_once(directory / f"seed-{number}", number, full, overrides, console))
    seconds = time.perf_counter() - started
    kept = checks(runs)
    after = demo_full.read_all([run.directory for run in runs]) if full else None
    kept += demo_full.checks(after) if after is not None else []
    summary = {
        "seeds": [run.seed for run in runs],
        "runs": [run.as_dict() for run in runs],
        "mean_over_seeds": plain(over_seeds(runs)),
        **({"full": plain(after.as_dict())} if after is not None else {}),
        "checks": [{"text": check.text, "passed": check.passed} for check in kept],
        "passed": all(check.passed for check in kept),
        "seconds": round(seconds, 1),
    }
    path = directory / "demo.json"
    path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _show(runs, summary, path, console, kept, after)
    return summary


def _console() -> Console:
    """A console of the page's width; a narrower terminal has its own, a file or pipe has none."""
    console = Console(file=sys.stdout)  # named, so that it is heard where printing is not
    console.width = min(demo_view.WIDTH, console.width) if console.is_terminal else demo_view.WIDTH
    return console


def _run_once(directory: Path, seed: int, full: bool, overrides: Sequence[str], console: Console) -> DemoRun:
    """The outcome of the recipe with this seed; every stage is announced before it runs."""
    from posttrain.config.recipe import load_recipe
    from posttrain.recipes.pipeline import run_recipe

    recipe = load_recipe(FULL if full else RECIPE, [*overrides, f"output_dir={directory}", f"seed={seed}"])
    for number, stage in enumerate(recipe.stages, start=1):
        title, text = (STORY | demo_full.STORY)[stage.name]
        console.print()
        heading = Text(f"{number}/{len(recipe.stages)} {title}", style="bold cyan")
        console.print(Text.assemble(heading, (f" - {text}", "dim")))
        with _Bars(console) as bars, _unheard(stage.name in _SILENT):
            record = run_recipe(recipe, only=stage.name, say=bars.say, progress=bars.advance)[stage.name]
        if stage.name in MODELS or stage.name in demo_full.MODELS:
            asked, said = read_answers(directory / stage.name)
            console.print(demo_view.one_answer(asked[0], said[0]))
        console.print(Text(f"{record.time_s:.1f} s", style="dim"))
    return read_run(directory, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread while inside: a model this small gains nothing from two, and loses much on a busy machine.

    The numbers also differ in their last bits with the number of threads, so they would with that of the cores.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _unheard(silent: bool) -> Iterator[None]:
    """Without transformers' loading bars while inside; if silent, also without what is printed."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(io.StringIO()) if silent else nullcontext():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _Bars:
    """A bar for each thing a stage counts, gone when the stage is done; training shows its own."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def say(self, text: str) -> None:
        """Passes on what a stage tells, but for the line that it has begun."""
        said = re.sub(r"^\[\d+/\d+\] \w+: ", "", text)
        if said not in METHODS:
            self.console.print(Text(said))

    def advance(self, name: str, done: int, total: int) -> None:
        if self.progress is None:
            self.progress = Progress(console=self.console, transient=True, disable=not self.console.is_terminal)
            self.progress.start()
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name.replace("_", " "), total=total)
        self.progress.update(self.bars[name], completed=done)


def _show(
    runs: Sequence[DemoRun],
    summary: dict[str, Any],
    path: Path,
    console: Console,
    kept: Sequence[demo_view.Check],
    after: demo_full.Full | None,
) -> None:
    first = runs[0]
    answers = {stage: read_answers(first.directory / stage) for stage in MODELS}
    questions = next(iter(answers.values()))[0]
    console.print()
    console.print(Rule("The same questions, four models"))
    console.print(demo_view.answers_table(questions, {stage: said for stage, (_, said) in answers.items()}))
    console.print(Rule("What was gained, and what was lost"))
    console.print(demo_view.scores_table(first.scores))
    if len(runs) > 1:
        console.print()
        console.print(demo_view.seeds_table(over_seeds(runs)))
    console.print()
    for training, paired in first.costs.items():
        console.print(demo_view.forgetting(training, paired))
    console.print(demo_view.elicitation(first.scores))
    console.print()
    if after is not None:
        console.print(Rule("Ways to learn from trying, from the same start"))
        console.print(demo_full.table(after))
    console.print(demo_view.checks_view(kept))
    console.print(Rule("The report"))
    for run in runs:
        subject = find_subject(run.directory)
        console.print(Text(verdict(subject, compared(subject)).sentence))
        console.print(Text(str(write_report(run.directory).path), style="bold"), soft_wrap=True)
    console.print(Rule("Where things are, and what to try next"))
    console.print(demo_view.whereabouts(first.directory, path), soft_wrap=True)
    console.print(f"\n[bold]Done in {summary['seconds']:.0f} seconds.[/]")
