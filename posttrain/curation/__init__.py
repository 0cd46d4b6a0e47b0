"""Making training data: so far, preference pairs by correcting a model's own answers."""

from posttrain.curation.correction import Corrector, correct, corrector
from posttrain.curation.pairs import PairCounts, correction_pairs, pairs_correct, pairs_correct_file

__all__ = [
    "Corrector",
    "PairCounts",
    "correct",
    "correction_pairs",
    "corrector",
    "pairs_correct",
    "pairs_correct_file",
]
