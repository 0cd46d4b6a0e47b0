"""What lint found in the data of a run or of a pipeline's stages, from the `lint.json` that it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from posttrain.report import pictures
from posttrain.report.evaluations import read_interval
from posttrain.report.files import number, read_object
from posttrain.report.histogram import columns
from posttrain.report.sections import Card, Row
from posttrain.report.subject import Subject
from posttrain.report.text import DASH, figure, percent, short, shown, visible

FILE = "lint.json"
_LEVELS = {"error": "loss", "warning": "loss", "note": "plain"}
_PAIRS = 10  # of those at risk


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finding."""

    level: str
    check: str
    text: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Lint:
    """One report of lint."""

    title: str
    lead: str
    findings: tuple[Found, ...]
    areas: Card | None  # what tells the sides of preference data apart
    histograms: tuple[tuple[tuple[str, ...], str, Markup], ...]  # what is counted, the unit, the picture
    pairs: tuple[dict[str, str], ...]  # at risk of likelihood displacement
    example: Markup | None
    beta: tuple[str, str] | None  # what it does, and the commands to try


def lints_of(subject: Subject) -> list[Lint]:
    """What lint left in the directory and in those of the stages, in their order."""
    places: list[tuple[str, Path]] = [("", subject.path)]
    places += [(stage.name, stage.directory) for stage in subject.stages]
    read = [(title, read_object(directory / FILE)) for title, directory in places]
    return [_lint(title, found) for title, found in read if isinstance(found.get("findings"), list)]


def _lint(title: str, found: Mapping[str, Any]) -> Lint:
    inputs = [one for one in found.get("inputs") or () if isinstance(one, Mapping)]
    named = ", ".join(f"{one.get('name')} ({one.get('format')})" for one in inputs)
    findings = [one for one in found["findings"] if isinstance(one, Mapping)]
    order = list(_LEVELS)
    findings.sort(key=lambda one: order.index(one["level"]) if one.get("level") in order else len(order))
    counts = [(sum(one.get("level") == level for one in findings), level) for level in order]
    said = ", ".join(f"{count} {level}{'s' if count != 1 else ''}" for count, level in counts)
    rows = number(found.get("rows"))
    beta = found.get("beta")
    return Lint(
        title=title,
        lead=f"{named}: {said}" + (f" in {rows:,.0f} rows." if rows is not None else "."),
        findings=tuple(
            Found(**{name: str(one.get(name) or "") for name in ("level", "check", "text", "advice")})
            for one in findings
        ),
        areas=_areas(found.get("separability")),
        histograms=tuple(one for one in map(_histogram, _list(found.get("histograms"))) if one is not None),
        pairs=tuple(_pairs(_list(found.get("displacement")))),
        example=_example(_list(found.get("example"))),
        beta=(str(beta.get("text", "")), "\n".join(map(str, _list(beta.get("commands")))))
        if isinstance(beta, Mapping)
        else None,
    )


def _areas(found: Any) -> Card | None:
    """The areas of the classifiers, each as a dot on its interval."""
    if not isinstance(found, Mapping):
        return None
    scale = (0.3, 1.0)
    rows = []
    longer = number(found.get("longer"))
    for one in _list(found.get("separations")):
        area = read_interval(one.get("area")) if isinstance(one, Mapping) else None
        if area is None:
            continue
        left = read_interval(one.get("without_length"))
        said = None if left is None else f"without length {figure(left.estimate)}"
        if one.get("features") == "length" and longer is not None:
            said = f"longer in {percent(longer)}"
        tone = "loss" if area.low > 0.5 else "plain"
        text = f"{one.get('features')}: {area.estimate:.2f}, between {area.low:.2f} and {area.high:.2f}"
        rows.append(
            Row(
                label=str(one.get("features")),
                picture=pictures.dot(area, scale, tone=tone, zero=False, text=text),
                value=figure(area.estimate),
                bounds=f"{figure(area.low)} to {figure(area.high)}",
                note=DASH if said is None else said,
                tone=tone,
            )
        )
    if not rows:
        return None
    what = "Chosen and rejected" if found.get("paired") else "Good and bad answers"
    counts = [number(found.get(name)) for name in ("used", "prompts")]
    of = "" if None in counts else f" {counts[0]:,.0f} of them, {counts[1]:,.0f} prompts."
    return Card(
        title=f"{what}, told apart without the prompt",
        subtitle=f"AUC of cross-validated classifiers; 0.5 is chance, 1 is a shortcut that always works.{of}",
        role="",
        rows=tuple(rows),
        axis=pictures.dot_axis(scale, is_share=False),
    )


def _histogram(found: Any) -> tuple[tuple[str, ...], str, Markup] | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("counts"), Mapping):
        return None
    edges = [number(edge) for edge in _list(found.get("edges"))]
    counts = {str(name): [number(count) or 0.0 for count in _list(some)] for name, some in found["counts"].items()}
    known = [edge for edge in edges if edge is not None]
    if not known or len(known) != len(edges):
        return None
    unit = str(found.get("unit") or "")
    picture = columns(known, counts, unit=unit, limit=number(found.get("limit")))
    return tuple(counts), unit, picture


def _pairs(found: list[Any]) -> list[dict[str, str]]:
    """The pairs most at risk, as lines of a table."""
    known = [one for one in found if isinstance(one, Mapping) and number(one.get("ches_normalised")) is not None]
    known.sort(key=lambda one: -float(one["ches_normalised"]))
    return [
        {
            "Row": shown(str(one.get("place"))),
            "CHES / length": short(number(one.get("ches_normalised"))),
            "CHES": short(number(one.get("ches"))),
            "Chosen, nats": figure(number(one.get("chosen_logprob"))),
            "Rejected, nats": figure(number(one.get("rejected_logprob"))),
            "Gap": figure(number(one.get("gap")), signed=True),
        }
        for one in known[:_PAIRS]
    ]


def _example(pieces: list[Any]) -> Markup | None:
    """One row as the model sees it, its trained part marked."""
    known = [piece for piece in pieces if isinstance(piece, list) and len(piece) == 2]
    if not known:
        return None
    return Markup("").join(
        Markup("<mark>{}</mark>").format(visible(str(text)[:4000])) if trained else escape(visible(str(text)[:4000]))
        for text, trained in known
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
