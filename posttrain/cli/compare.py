"""`posttrain compare`: two models on the same questions, and the gate."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cli.flags import help_text, parse, read
from posttrain.cli.positional import positional
from posttrain.config.evaluation import CompareCommand
from posttrain.config.gate import GateConfig
from posttrain.errors import ConfigError

if TYPE_CHECKING:
    from posttrain.evaluation import AnyTask
    from posttrain.evaluation.comparison import Comparison, TaskComparison
    from posttrain.evaluation.records import Record

_EXAMPLE = """\
posttrain compare BASE TUNED --tasks gsm8k.jsonl tasks.yaml --output comparison
posttrain compare scores/base scores/tuned
posttrain compare BASE TUNED --gate gate.yaml || echo "not promoted"

gate.yaml:
  targets:
    - {task: gsm8k, min_gain: 0.05}
  retention:
    - {task: battery, max_loss: 0.03}
  max_kl: 0.5
  tasks: [gsm8k.jsonl, battery]"""

_ABOUT = (
    "Compares two models, or two directories of posttrain evaluate, question by question: what was gained and lost, "
    "with paired intervals and exact tests corrected for the number of tasks, the answers that turned, and how many "
    "questions a change needs to be seen. The exit status is 0, or 4 where a gate is given and does not pass."
)
_FAILED = 4


def run(arguments: Sequence[str]) -> int:
    """The exit code of comparing: 4 where a gate is given and does not pass."""
    words = positional(arguments, ("before", "after"))
    if not words or parse(CompareCommand, words).help:
        usage = "posttrain compare BEFORE AFTER [--tasks TASK ...] [--gate gate.yaml] [--output DIR] [flags]"
        print(help_text(CompareCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(CompareCommand, words)
    gate = None if command.gate is None else GateConfig.from_yaml(command.gate)

    from posttrain.evaluation.comparison import (
        COMPARISON,
        DRIFT,
        Comparison,
        compare_records,
        decide_on,
        differing_settings,
        is_evaluation,
        write_comparison,
    )
    from posttrain.evaluation.drift import read_kl

    output = Path(command.output)
    try:
        before, after, drift, directories = _measured(command, gate, output)
    except KeyboardInterrupt:
        print(f"\n{output}: stopped. The same command goes on.", file=sys.stderr)
        return 130
    tasks = compare_records(before, after, change=command.change)
    notes = differing_settings(*directories, [task.task for task in tasks])
    if drift is not None and is_evaluation(command.after):
        notes.append(f"the drift is that of {directories[1] / DRIFT}, from the model which that was measured against")
    decision = None
    if gate is not None:
        decision = decide_on(gate, before, after, path=command.after, kl=None if drift is None else read_kl(drift))
    comparison = Comparison(
        before=command.before,
        after=command.after,
        tasks=tasks,
        notes=tuple(notes),
        drift=drift,
        gate=None if decision is None else decision.as_dict(),
    )
    write_comparison(output / COMPARISON, comparison)
    print("\n".join([*table(comparison), *flips(comparison, before, after, command.flips)]))
    print(f"\nall of it: {output / COMPARISON}")
    if decision is None:
        print("next: write a gate.yaml and add --gate, to have such a comparison decide (posttrain compare --help)")
        return 0
    print(decision.sentence)
    return 0 if decision.status == 0 else _FAILED


def _measured(
    command: CompareCommand, gate: GateConfig | None, output: Path
) -> tuple[Mapping[str, Sequence[Record]], Mapping[str, Sequence[Record]], dict[str, Any] | None, tuple[Path, Path]]:
    """The records of both sides, the drift where it is known or can be measured, and the two directories."""
    from posttrain.evaluation.comparison import DRIFT, is_evaluation, read_evaluation

    names = {"before": command.before, "after": command.after}
    models = {side: name for side, name in names.items() if not is_evaluation(name)}
    directories = {side: output / side if side in models else Path(name) for side, name in names.items()}
    drift = None
    if models:
        tasks = _tasks(command, gate)

        from posttrain.cli.measuring import measure, open_subject
        from posttrain.evaluation.drift import neutral_texts

        file = command.neutral or (None if gate is None else gate.neutral)
        neutral = [] if file is None else neutral_texts(file)
        wanted = len(models) == 2 and (command.drift or (gate is not None and gate.max_kl is not None))
        opened = {}
        for side, model in models.items():
            print(f"{side}: {model}", file=sys.stderr)
            sampler = open_subject(model, command)
            measure(model, tasks, directories[side], command, sampler=sampler)
            if wanted:  # else the first model's memory is the second's
                opened[side] = sampler
            del sampler
        if wanted:
            drift = _drift(
                opened["before"], opened["after"], tasks, directories["after"] / DRIFT,
                neutral=neutral, seed=command.seed,
            )  # fmt: skip
    if drift is None and (directories["after"] / DRIFT).is_file():
        drift = json.loads((directories["after"] / DRIFT).read_text(encoding="utf-8"))
    before, after = (read_evaluation(directories[side]) for side in names)
    if command.tasks is not None and not models:
        for name in command.tasks:
            if name not in before or name not in after:
                there = ", ".join(task for task in before if task in after) or "none"
                raise ConfigError(f"--tasks {name}: no such task in both directories (there are {there})")
        before = {name: before[name] for name in command.tasks}
    return before, after, drift, (directories["before"], directories["after"])


def _tasks(command: CompareCommand, gate: GateConfig | None) -> list[AnyTask]:
    """What models are measured on: the tasks named, else those of the gate."""
    from posttrain.recipes.scoring import named_tasks

    specs: Sequence[Any] | None = command.tasks
    home = Path()
    if specs is None and gate is not None:
        given = gate.tasks if gate.tasks is not None else gate.task_names()
        specs, home = [given] if isinstance(given, str) else given, gate.home
    if specs is None:
        raise ConfigError(
            "which tasks? Name them with --tasks (files, tasks.yaml, names), or give two directories of posttrain"
            " evaluate"
        )
    return named_tasks(specs, limit=command.limit, include_path=command.include_path, home=home)


def _drift(
    before: Any, after: Any, tasks: Sequence[AnyTask], path: Path, *, neutral: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """The drift on neutral text and on questions of the tasks that are answered, also written to drift.json."""
    from posttrain.cli.measuring import note
    from posttrain.errors import ModelError
    from posttrain.evaluation.drift import PROMPTS, drift_between, drift_prompts, write_drift

    prompts, longest = drift_prompts(tasks)
    if not prompts and not neutral:
        return None
    try:
        found = drift_between(
            before.model, after.model, after.tokenizer, prompts=prompts, neutral=neutral, max_new_tokens=longest,
            texts=PROMPTS, seed=seed,
        )  # fmt: skip
    except ModelError as error:
        note(f"drift was not measured: {error}")
        return None
    write_drift(path, found)
    return {name: one.as_dict() for name, one in found.items()}


def table(comparison: Comparison) -> list[str]:
    """What was gained and lost, task by task."""
    from posttrain.cli.measuring import shown

    rows = [("task", "grader", "before", "after", "difference", "p, for all tasks")]
    for task in comparison.tasks:
        for grader, compared in {task.grader: task.headline, **task.others}.items():
            first = grader == task.grader
            p = task.p_holm if first else None
            rows.append(
                (
                    task.task if first else "",
                    grader,
                    shown(compared.before, grader),
                    shown(compared.after, grader),
                    shown(compared.difference, grader, signed=True),
                    "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"{task.task}: {text}" for task in comparison.tasks for text in _said(task)]
    lines += comparison.notes
    if comparison.drift:
        for name, one in comparison.drift.items():
            forward, reverse, changed = (one[key]["estimate"] for key in ("kl_forward", "kl_reverse", "changed_greedy"))
            lines.append(
                f"drift on {name}: KL {forward:.3g} forward, {reverse:.3g} reverse (nats a token); "
                f"{100 * changed:.0f}% of the greedy answers changed"
            )
    return lines


def _said(task: TaskComparison) -> list[str]:
    """Sentences on what a task's numbers can and cannot tell."""
    found = [task.note] if task.note else []
    if task.left_out:
        found.append(f"{task.left_out} questions are left out, which were not graded on both sides")
    seen = task.p_holm is not None and task.p_holm < 0.05
    if task.needed is not None and task.needed > task.n and not seen:
        sees = "" if task.smallest is None else f"; these {task.n:,} show one of {100 * task.smallest:.1f}"
        found.append(
            f"to see a change of {100 * task.change:g} points four times out of five, about {task.needed:,} questions "
            f"are needed{sees}"
        )
    return found


def flips(
    comparison: Comparison, before: Mapping[str, Sequence[Record]], after: Mapping[str, Sequence[Record]], most: int
) -> list[str]:
    """The first questions whose answers turned, each way."""
    lines = []
    for task in comparison.tasks:
        old, new = ({record.row: record for record in reversed(side[task.task])} for side in (before, after))
        for word, rows in (("gained", task.gained), ("lost", task.lost)):
            if rows:
                lines.append(f"\n{task.task}, {word} {len(rows)}:")
            for row in rows[:most]:
                lines.append(f"  row {row}: {_short(old[row].prompt)}")
                lines.append(f"    before: {_short(old[row].completion)}")
                lines.append(f"    after:  {_short(new[row].completion)}")
            if len(rows) > most:
                lines.append(f"  and {len(rows) - most} more")
    return lines


def _short(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 100 else f"{line[:60]} ... {line[-35:]}"
