"""What lint found, as text, as JSON, and as an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.curation.linting import advice
from posttrain.curation.linting.displacement import PairOutlook
from posttrain.curation.linting.findings import STATUS, Finding, Level
from posttrain.curation.linting.lengths import Histogram
from posttrain.curation.linting.separability import Separability
from posttrain.data.report import DataReport
from posttrain.errors import DataError

FILE = "lint.json"
_COLOURS = {"error": "\033[31m", "warning": "\033[33m", "note": "\033[36m"}
_SHOWN_OUTLOOKS = 10


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """What lint found in some data. `status` is 0 for clean, 1 for warnings, 2 for errors."""

    inputs: tuple[Mapping[str, Any], ...]  # name, format, understood, rows
    rows: int
    findings: tuple[Finding, ...]
    settings: Mapping[str, Any]
    counts: Mapping[str, Any] = field(default_factory=dict)
    histograms: tuple[Histogram, ...] = ()
    separability: Separability | None = None
    distances: Mapping[str, float] = field(default_factory=dict)  # quartiles of the edit distance
    outlooks: tuple[PairOutlook, ...] = ()
    example: DataReport | None = None  # one row as the model sees it
    paired: bool = False

    @property
    def status(self) -> int:
        """The exit status."""
        return max((STATUS[finding.level] for finding in self.findings), default=0)

    def of_level(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; docs/lint.md says what each key is."""
        return {
            "version": 1,
            "status": self.status,
            "inputs": [dict(one) for one in self.inputs],
            "rows": self.rows,
            "settings": dict(self.settings),
            "findings": [finding.as_dict() for finding in self.findings],
            "counts": dict(self.counts),
            "histograms": [one.as_dict() for one in self.histograms],
            "separability": None if self.separability is None else self.separability.as_dict(),
            "edit_distance": dict(self.distances),
            "displacement": [one.as_dict() for one in self.outlooks],
            "example": None if self.example is None else [list(piece) for piece in self.example.example],
            "beta": self._beta() if self.paired else None,
        }

    def write(self, path: str | Path) -> Path:
        """The file that the report was written to as JSON, whole or not at all."""
        return _written(Path(path), self.json())

    def write_text(self, path: str | Path) -> Path:
        """The file that the report was written to as text without colour."""
        return _written(Path(path), self.text(color=False))

    def json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2, allow_nan=False)

    def text(self, color: bool | None = None) -> str:
        """The report for a person. In colour on a terminal only, unless told."""
        color = sys.stdout.isatty() if color is None else color
        parts = [self._inputs()]
        if self.histograms:
            parts.append("\n".join(one.text() for one in self.histograms))
        if self.example is not None:
            how = "in green" if color else "in [[...]]"
            parts.append(f"One row as the model sees it, {how} what is trained:\n{self.example.render_marked(color)}")
        if self.separability is not None and self.separability.separations:
            parts.append(_table(self.separability))
        if self.distances:
            said = ", ".join(f"{name} {value:.2f}" for name, value in self.distances.items())
            parts.append(f"Edit distance of the sides, as a share of the longer one's words: {said}.")
        if self.outlooks:
            parts.append(self._without_source(_outlooks(self.outlooks)))
        parts += [_finding(finding, color) for finding in self._ordered()]
        if self.paired:
            parts.append("\n".join([advice.BETA, *(f"  {command}" for command in self._beta()["commands"])]))
        parts.append(self.sentence)
        return "\n\n".join(parts)

    @property
    def sentence(self) -> str:
        """The verdict in a line."""
        counts = [(len(self.of_level(level)), level) for level in ("error", "warning", "note")]
        said = ", ".join(f"{count} {level}{'s' if count != 1 else ''}" for count, level in counts)
        return f"{'clean' if self.status == 0 else 'not clean'}: {said} in {self.rows:,} rows"

    def _without_source(self, text: str) -> str:
        """The text with "line 17" where the only input need not be named with every row."""
        return text.replace(f"  {self.inputs[0]['name']}:", "  line ") if len(self.inputs) == 1 else text

    def _ordered(self) -> list[Finding]:
        return sorted(self.findings, key=lambda finding: -STATUS[finding.level])

    def _inputs(self) -> str:
        lines = []
        for one in self.inputs:
            understood = f": {one['understood']}" if one["understood"] else ""
            lines.append(f"{one['name']}: {one['rows']:,} rows. Format {one['format']}{understood}.")
        if tokens := self.counts.get("tokens"):
            lines.append(
                f"{tokens['tokens']:,} tokens, {tokens['trained']:,} of them trained. Answers end with "
                f"{', '.join(tokens['stop_tokens']) or 'nothing'}: {tokens['stopped']:,} of {tokens['spans']:,}."
            )
            lines += tokens["notes"]
        return "\n".join(lines) or "no input"

    def _beta(self) -> dict[str, Any]:
        data = self.inputs[0]["name"] if self.inputs else "PAIRS.jsonl"
        return {"text": advice.BETA, "commands": advice.beta_commands(data, self.settings.get("model"))}


def _written(path: Path, text: str) -> Path:
    aside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text + "\n", encoding="utf-8", errors="replace")
        aside.replace(path)
    except OSError as error:
        raise DataError(f"the report cannot be written to {path}: {error.strerror}; name another file") from None
    return path


def _table(found: Separability) -> str:
    """The areas of the classifiers, a line each."""
    of = f"{found.used:,}" + (f" of {found.pairs:,}" if found.used < found.pairs else "")
    what = "chosen and rejected" if found.paired else "good and bad answers"
    lines = [
        f"Can {what} be told apart without the prompt? {of} {'pairs' if found.paired else 'answers'}, "
        f"{found.prompts:,} prompts; AUC out of fold, 0.5 is chance; intervals hold together with 99%:"
    ]
    for one in found.separations:
        left = one.without_length
        rest = "" if left is None else f"   without length {left.estimate:.2f} [{left.low:.2f}, {left.high:.2f}]"
        area = one.area
        right = "" if one.accuracy is None else f"   right {one.accuracy:4.0%}"
        lines.append(f"  {one.features:<10} {area.estimate:.2f} [{area.low:.2f}, {area.high:.2f}]{right}{rest}")
    lines.append(f"  An AUC below {found.smallest_seen:.2f} would not have been told from chance with so many.")
    return "\n".join(lines)


def _outlooks(found: Sequence[PairOutlook]) -> str:
    """The pairs by length-normalised CHES, the highest first."""
    ordered = sorted(found, key=lambda pair: -pair.ches_normalised)
    lines = [
        f"Likelihood displacement, as the model sees {len(found):,} pairs now (nats; CHES: arXiv:2410.08847, high is "
        "at risk):",
        f"  {'CHES/length':>12} {'CHES':>10} {'chosen':>9} {'rejected':>9} {'gap':>8}  row",
    ]
    for pair in ordered[:_SHOWN_OUTLOOKS]:
        lines.append(
            f"  {pair.ches_normalised:>12.4g} {pair.ches:>10.4g} {pair.chosen_logprob:>9.1f} "
            f"{pair.rejected_logprob:>9.1f} {pair.gap:>8.1f}  {pair.place}"
        )
    if len(found) > _SHOWN_OUTLOOKS:
        lines.append(f"  and {len(found) - _SHOWN_OUTLOOKS:,} more, all of them in the JSON report")
    return "\n".join(lines)


def _finding(finding: Finding, color: bool) -> str:
    begin, end = (_COLOURS[finding.level], "\033[0m") if color else ("", "")
    line = finding.line().replace(finding.level, f"{begin}{finding.level}{end}", 1)
    return f"{line}\n  {finding.advice}" if finding.advice else line
