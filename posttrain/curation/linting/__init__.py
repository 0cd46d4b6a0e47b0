"""Lint: what would go wrong with data, before an hour is spent on training."""

from posttrain.curation.linting.findings import Finding, Limits
from posttrain.curation.linting.report import LintReport
from posttrain.curation.linting.run import lint, lint_files

__all__ = ["Finding", "Limits", "LintReport", "lint", "lint_files"]
