"""Intervals and paired tests. Needs numpy and, where a t quantile is asked for, scipy; never torch."""

from posttrain.stats.intervals import Interval, bootstrap_mean, mean_over_seeds, wilson
from posttrain.stats.paired import Paired, mcnemar

__all__ = ["Interval", "Paired", "bootstrap_mean", "mcnemar", "mean_over_seeds", "wilson"]
