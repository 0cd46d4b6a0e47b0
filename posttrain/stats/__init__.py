"""Intervals, paired comparisons, pass@k and sample sizes. Needs numpy and scipy.special; never torch."""

from posttrain.stats.bounded_mean import bounded_lower_bound, bounded_p_value
from posttrain.stats.difference import above_p_value, changed_share, difference_p_value, paired_difference
from posttrain.stats.exact_paired import exact_lower_bound, exact_p_value
from posttrain.stats.intervals import Interval, bootstrap_mean, mean_over_seeds, wilson
from posttrain.stats.multiple import fallback, holm
from posttrain.stats.paired import Paired, mcnemar
from posttrain.stats.passk import maj_at_k, pass_at_k
from posttrain.stats.power import questions_needed, smallest_difference, smallest_max_loss

__all__ = [
    "Interval",
    "Paired",
    "above_p_value",
    "bootstrap_mean",
    "bounded_lower_bound",
    "bounded_p_value",
    "changed_share",
    "difference_p_value",
    "exact_lower_bound",
    "exact_p_value",
    "fallback",
    "holm",
    "maj_at_k",
    "mcnemar",
    "mean_over_seeds",
    "paired_difference",
    "pass_at_k",
    "questions_needed",
    "smallest_difference",
    "smallest_max_loss",
    "wilson",
]
