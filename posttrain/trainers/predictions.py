"""What `compute_metrics` is given: the logits and labels of an evaluation, as arrays in transformers' layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from posttrain.config.dataset import DatasetConfig
from posttrain.errors import ConfigError
from posttrain.models.learner import Learner
from posttrain.trainers.assembly import Assembled
from posttrain.types import Batch, Outputs

IGNORED = -100  # where no label is, and what shorter batches are filled up with


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of one pass, padded on the right to its longest."""

    predictions: Any  # [R, T, V] logits, or what preprocess_logits_for_metrics made of them
    labels: np.ndarray  # [R, T] the trained tokens at their places, -100 elsewhere
    inputs: np.ndarray  # [R, T] all tokens
    losses: np.ndarray  # [R] mean negative log-likelihood of a row's trained tokens


class Predictions:
    """Collects an evaluation for `compute_metrics`, a leaf of a tree as a row.

    The logits before a trained token stand one place before its label, as a model of transformers gives them; before
    other tokens they are zero, since they are not computed.
    """

    def __init__(
        self,
        assembled: Assembled,
        compute_metrics: Callable[..., Mapping[str, float]],
        preprocess: Callable[[Tensor, Tensor], Any] | None = None,
    ) -> None:
        if not isinstance(assembled.learner, Learner):
            raise ConfigError("compute_metrics: this model gives scores, not tokens; its metrics are those of pairs")
        assert isinstance(assembled.config, DatasetConfig)
        self._learner, self._runtime, self._config = assembled.learner, assembled.runtime, assembled.config
        self._compute, self._preprocess = compute_metrics, preprocess
        self._kept: list[_Rows] = []

    def add(self, part: Batch, outputs: Outputs) -> None:
        """Another pass of the evaluation."""
        forest = part.forest
        if not forest.leaves:
            return
        count, width = len(forest.leaves), int(forest.positions[forest.ends].max()) + 1
        row, place = forest.sequence, forest.positions[forest.predictors]
        flat = self._learner.own_logits(forest, slice(None)).float()
        logits = flat.new_zeros(count, width, flat.shape[-1])
        logits[row, place] = flat
        labels = forest.targets.new_full((count, width), IGNORED)
        labels[row, place + 1] = forest.targets
        inputs = forest.tokens.new_full((count, width), IGNORED)
        offsets = forest.offsets
        for i, leaf in enumerate(forest.leaves):
            path = torch.cat([forest.tokens[offsets[s] : offsets[s] + forest.lengths[s]] for s in forest.path(leaf)])
            inputs[i, : len(path)] = path
        sums = torch.zeros(count, device=row.device).index_add_(0, row, -outputs.logprobs.float())
        losses = sums / torch.tensor(forest.trained, device=row.device)
        made = logits if self._preprocess is None else self._preprocess(logits, labels)
        self._kept.append(
            _Rows(
                predictions=_arrays(made), labels=labels.cpu().numpy(), inputs=inputs.cpu().numpy(),
                losses=losses.cpu().numpy(),
            )
        )  # fmt: skip

    def metrics(self) -> dict[str, float]:
        """What compute_metrics makes of the rows of all processes, with the prefix `eval_`; the rows are forgotten."""
        everyone = [rows for kept in self._runtime.gather_objects(self._kept) for rows in kept]
        self._kept = []
        if not everyone:
            return {}
        if self._config.batch_eval_metrics:
            found: Mapping[str, float] = {}
            for number, rows in enumerate(everyone, start=1):
                found = self._compute(self._prediction([rows]), compute_result=number == len(everyone))
        elif self._config.eval_do_concat_batches:
            found = self._compute(self._prediction(everyone))
        else:
            found = self._compute(self._prediction(everyone, apart=True))
        if not isinstance(found, Mapping):
            raise ConfigError(f"compute_metrics returned a {type(found).__name__}; it has to return a dict of numbers")
        return {
            name if name.startswith("eval_") else f"eval_{name}": float(value) for name, value in dict(found).items()
        }

    def _prediction(self, rows: Sequence[_Rows], *, apart: bool = False) -> EvalPrediction:
        join: Callable[[Sequence[Any]], Any] = list if apart else _joined
        wanted = self._config.include_for_metrics
        return EvalPrediction(
            predictions=join([r.predictions for r in rows]),
            label_ids=join([r.labels for r in rows]),
            inputs=join([r.inputs for r in rows]) if "inputs" in wanted else None,
            losses=join([r.losses for r in rows]) if "loss" in wanted else None,
        )


def _arrays(value: Any) -> Any:
    """Tensors as arrays, in tuples and lists too."""
    if isinstance(value, Tensor):
        return value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    return tuple(_arrays(part) for part in value) if isinstance(value, tuple | list) else np.asarray(value)


def _joined(parts: Sequence[Any]) -> Any:
    """One array of all rows, the second axis filled up with -100."""
    if isinstance(parts[0], tuple):
        return tuple(_joined(column) for column in zip(*parts))
    if parts[0].ndim < 2:
        return np.concatenate([np.atleast_1d(part) for part in parts])
    width = max(part.shape[1] for part in parts)
    filled = [
        np.pad(part, [(0, 0), (0, width - part.shape[1])] + [(0, 0)] * (part.ndim - 2), constant_values=IGNORED)
        for part in parts
    ]
    return np.concatenate(filled)
