"""From the fields of the command and of the recipe's stage to the arguments of lint."""

from __future__ import annotations

from typing import Any

from posttrain.config.curation.lint import LintFields
from posttrain.curation.linting.findings import Limits


def options_of(fields: LintFields) -> dict[str, Any]:
    """The arguments of `lint_files`."""
    same = ("model", "tokenizer", "against", "max_length", "max_pairs", "model_pairs", "seed", "trust_remote_code")
    return {**{name: getattr(fields, name) for name in same}, "limits": Limits(area=fields.area)}
