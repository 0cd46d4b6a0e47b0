"""The page: everything a run left, as one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from posttrain.errors import DataError
from posttrain.report import facts, pictures, sections
from posttrain.report.answers import Flips, flips, side_by_side
from posttrain.report.changes import Change
from posttrain.report.curves import Curve, Curves, curves
from posttrain.report.evaluations import Evaluation
from posttrain.report.files import number
from posttrain.report.gate import gate_lines, promoted
from posttrain.report.lint import lints_of
from posttrain.report.samples import Group, groups
from posttrain.report.subject import Subject, Training, find_subject
from posttrain.report.text import duration, figure, short, shown, visible, words
from posttrain.report.verdict import Comparison, compared, verdict

FILE = "report.html"
_HERE = Path(__file__).parent
_COLUMNS = 4  # of answers side by side


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report on the disk."""

    path: Path
    bytes: int


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A curve with its picture."""

    curve: Curve
    picture: Markup


@dataclass(frozen=True, kw_only=True)
class _TrainingCurves:
    title: str
    first: tuple[_Drawn, ...]
    further: tuple[_Drawn, ...]
    constant: tuple[tuple[str, float], ...]
    marks: str  # what the upright lines are


def write_report(run: str | Path, output: str | Path | None = None) -> Written:
    """The report on a run or pipeline directory, written to `output` or to `report.html` in it.

    What is not there yet is left out, with a line that says what would make it; a run may still be going on.
    Raises DataError where the directory holds neither, or where the report cannot be written.
    """
    subject = find_subject(Path(run))
    path = Path(output) if output is not None else subject.path / FILE
    text = render(subject).encode("utf-8", "replace")
    aside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(text)
        aside.replace(path)
    except OSError as error:
        raise DataError(
            f"the report cannot be written to {path}: {error.strerror}; name another file with --output"
        ) from None
    return Written(path=path, bytes=len(text))


def render(subject: Subject) -> str:
    """The HTML of the report."""
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    # The policy allows this one style sheet, known by its hash, and nothing else: no script, picture, font or frame.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    environment.filters.update(shown=shown, words=words, short=short, figure=figure)
    environment.globals.update(change_cells=sections.change_cells)
    return environment.get_template("page.html.jinja").render(
        **_content(subject), style=Markup(style), policy=f"default-src 'none'; style-src 'sha256-{digest}'"
    )


def _content(subject: Subject) -> dict[str, Any]:
    comparisons = compared(subject)
    trained = [_training_curves(training) for training in subject.trainings]
    sampled = [(training.name, picked) for training in subject.trainings if (picked := _groups(training))]
    settings = [
        one for training in subject.trainings if (one := facts.settings_of(training, training.name)) is not None
    ]
    content: dict[str, Any] = {
        "title": subject.title,
        "kind": subject.kind,
        "about": _about(subject),
        "verdict": verdict(subject, comparisons),
        "scores": sections.score_groups(subject),
        "has_promoted": bool(subject.gate.get("promoted")),
        "many_evaluations": len(subject.evaluations) > 1,
        "forests": sections.forests([one for one in comparisons if not one.over_stages]),
        "over_stages": sections.forests([one for one in comparisons if one.over_stages]),
        "gate": gate_lines(subject.gate),
        "drift": sections.drift_cards(subject),
        "drift_lines": sections.drift_lines(subject),
        "logged_kl": sections.logged_kl(subject),
        "curves": [one for one in trained if one.first or one.further],
        "answers": side_by_side(columns) if len(columns := _columns(subject)) > 1 else [],
        "flips": [(one, found) for one in comparisons if not one.over_stages and (found := _flips(one))],
        "samples": sampled,
        "shaded_tokens": any(one.drawings for _, found in sampled for group in found for one in group.completions),
        "lints": lints_of(subject),
        "data": facts.data_of(subject),
        "stages": facts.stage_lines(subject.stages),
        "alarms": facts.alarms_of(subject),
        "logged": any(training.lines for training in subject.trainings),
        "settings": settings,
        "environment": facts.environment_of(subject),
        "recipe": facts.recipe_of(subject),
        "command": facts.command_of(subject),
    }
    return {**content, "missing": _missing(subject, content)}


def _about(subject: Subject) -> list[str]:
    """What is said below the title."""
    said = []
    if subject.is_pipeline:
        said.append(f"{len(subject.stages)} stages")
    elif subject.trainings and (last := subject.trainings[0].last_step) is not None:
        said.append(f"{last:,} steps")
    if subject.kind == "comparison":
        said += [f"{side}: {subject.comparison.get(side)}" for side in ("before", "after")]
    if subject.seconds is not None:
        said.append(duration(subject.seconds))
    seeds = dict.fromkeys(str(seed) for t in subject.trainings if (seed := t.config.get("seed")) is not None)
    if seeds:
        said.append(f"seed {', '.join(seeds)}")
    said.append(str(subject.path))
    return said


def _training_curves(training: Training) -> _TrainingCurves:
    found: Curves = curves(training.lines, training.kind)
    steps = [step for line in training.alarms if (step := number(line.get("step"))) is not None]
    chosen = promoted(training.gate, training.evaluations)
    promoted_step = None if chosen is None else chosen.step
    marks = ["an alarm"] if steps else []
    marks += ["the promoted checkpoint"] if promoted_step is not None else []

    def drawn(some: tuple[Curve, ...]) -> tuple[_Drawn, ...]:
        return tuple(
            _Drawn(curve=one, picture=pictures.chart(one, alarms=steps, promoted=promoted_step)) for one in some
        )

    return _TrainingCurves(
        title=training.name,
        first=drawn(found.first),
        further=drawn(found.further),
        constant=found.constant,
        marks=" or ".join(marks),
    )


def _columns(subject: Subject) -> list[Evaluation]:
    """The evaluations whose answers stand side by side."""
    found = list(subject.evaluations)
    if len(found) <= _COLUMNS:
        return found
    if subject.is_pipeline:
        return [found[0], *found[1 - _COLUMNS :]]
    chosen = promoted(subject.gate, found)
    return [e for i, e in enumerate(found) if i in (0, len(found) - 1) or e is chosen]


def _groups(training: Training) -> list[Group]:
    return groups(training.samples) if training.samples is not None else []


def _flips(comparison: Comparison) -> list[Flips]:
    changed: list[Change] = [c for c in comparison.headlines() if c.gained or c.lost]
    return [flips(comparison.before, comparison.after, change) for change in changed]


def _missing(subject: Subject, content: dict[str, Any]) -> list[tuple[str, str]]:
    """What the report has no section for, and what would make one."""
    trained, measured = bool(subject.trainings), bool(subject.evaluations)
    online = any(training.kind == "grpo" for training in subject.trainings)
    wanted = [
        (content["gate"] or subject.gate, "The gate's decision", "name targets and retention tasks in a gate.yaml, "
         "and train with it or use posttrain compare BEFORE AFTER --gate gate.yaml"),
        (measured, "Scores", "evaluate the start and the trained model: evaluate stages in a recipe, or "
         "posttrain compare BEFORE AFTER"),
        (content["forests"] or not measured, "Gains and losses", "evaluate the start too, on the same questions"),
        (content["drift"], "Drift", "drift_from in the evaluate stages of a recipe, or posttrain compare BEFORE AFTER"),
        (content["curves"] or not trained, "Training curves", "metrics.jsonl, which a training writes every "
         "logging_steps"),
        (content["answers"] or not measured, "Answers before and after", "keep the records (TASK.jsonl) of at least "
         "two evaluations of the same questions"),
        (content["samples"] or not online, "Samples with their rewards", "train with save_samples=true"),
        (content["data"] or not trained, "What happened to the data", "data.json, which a training writes when it has "
         "read its rows"),
        (content["settings"] or not trained, "The settings", "config.yaml, which a training writes when it begins"),
        (content["environment"] or not trained, "Versions and hardware", "environment.json, which a training writes "
         "when it begins"),
        (content["command"] or not trained, "How to do it again", "environment.json with the command, or the "
         "recipe.yaml of a pipeline"),
    ]  # fmt: skip
    return [(what, how) for there, what, how in wanted if not there]
