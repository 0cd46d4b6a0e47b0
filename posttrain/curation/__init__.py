"""Making data worth training on; each name is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.curation.card import Card as Card
    from posttrain.curation.conversion.convert import convert as convert
    from posttrain.curation.correction import Corrector as Corrector
    from posttrain.curation.correction import correct as correct
    from posttrain.curation.correction import corrector as corrector
    from posttrain.curation.distillation import distill as distill
    from posttrain.curation.filters.filtering import FilterReport as FilterReport
    from posttrain.curation.filters.filtering import decontaminate as decontaminate
    from posttrain.curation.filters.filtering import deduplicate as deduplicate
    from posttrain.curation.filters.filtering import filter_rows as filter_rows
    from posttrain.curation.filters.filtering import select_diverse as select_diverse
    from posttrain.curation.linting import LintReport as LintReport
    from posttrain.curation.linting import lint as lint
    from posttrain.curation.pairs import PairCounts as PairCounts
    from posttrain.curation.pairs import correction_pairs as correction_pairs
    from posttrain.curation.pairs import pairs_correct as pairs_correct
    from posttrain.curation.rejection import reject_sample as reject_sample
    from posttrain.curation.sampled_pairs import pairs_sample as pairs_sample

# name -> module of this package
_HOME = {
    "Card": "card",
    "Corrector": "correction",
    "FilterReport": "filters.filtering",
    "LintReport": "linting",
    "PairCounts": "pairs",
    "convert": "conversion.convert",
    "correct": "correction",
    "correction_pairs": "pairs",
    "corrector": "correction",
    "decontaminate": "filters.filtering",
    "deduplicate": "filters.filtering",
    "distill": "distillation",
    "filter_rows": "filters.filtering",
    "lint": "linting",
    "pairs_correct": "pairs",
    "pairs_sample": "sampled_pairs",
    "reject_sample": "rejection",
    "select_diverse": "filters.filtering",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'posttrain.curation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"posttrain.curation.{_HOME[name]}"), name)
