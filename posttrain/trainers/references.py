"""The `ref_model` of a trainer on a dataset: checked, loaded, and asked once about every tree."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from posttrain.data.trees import TreeSet
from posttrain.errors import ConfigError
from posttrain.models.learner import Learner
from posttrain.models.locating import local_directory
from posttrain.models.reference import StartingWeights, asked_now, content_hash, with_reference
from posttrain.sources.weighing import WeighedSet
from posttrain.trainers.assembly import Assembled, load_beside
from posttrain.trainers.checks import Data
from posttrain.types import Segment

Trees = TypeVar("Trees", TreeSet, WeighedSet)


def check_ref_model(ref_model: Any, model: Any) -> None:
    """Raises for a reference that would change along, or a path that is not there, before anything is read."""
    if ref_model is not None and ref_model is model and not isinstance(model, str | os.PathLike):
        raise ConfigError(
            "ref_model is the very model that is trained: it would change along. Leave ref_model=None, "
            "which takes the model as it is now."
        )
    if isinstance(ref_model, str | os.PathLike):
        local_directory(ref_model)


def check_synced(ref_model: Any, model: Any, peft_config: Any) -> None:
    """Raises for a reference that cannot follow the policy."""
    if ref_model is not None or peft_config is not None or isinstance(model, PeftModel):
        raise ConfigError(
            "sync_ref_model mixes all weights of the policy into a reference that began as the policy: leave "
            "ref_model=None, and train without an adapter (peft_config=None), of which there is nothing to mix."
        )


def reference_learner(
    ref_model: Any, assembled: Assembled, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Data | None]
) -> Learner:
    """The learner of `ref_model`; of None the one that is trained, as it is before the first step."""
    if ref_model is None:
        return assembled.learner
    device, config = assembled.runtime.device, assembled.config
    return Learner(load_beside(ref_model, device, config, name="ref_model", tokenizer=tokenizer, rows=rows))


def attach_reference(
    trees: Trees | None, reference: Learner, assembled: Assembled, *, rows: int | None = None
) -> tuple[Trees | None, str]:
    """The trees with the reference's log-probabilities at their leaves, and the content hash of what was asked.

    They are computed once, at most so many `rows` at a time, and kept in `output_dir/reference`.
    """
    if trees is None:
        return None, ""
    runtime, config = assembled.runtime, assembled.config
    made, key = with_reference(
        trees.trees,
        reference,
        directory=Path(config.output_dir) / "reference",
        max_tokens=config.max_tokens_per_pass or 1,
        autocast=runtime.autocast,
        precision=str(runtime.autocast_dtype),
        share=(runtime.rank, runtime.world_size),
        gather=runtime.gather_objects,
        quiet=not runtime.is_main,
        rows=rows,
    )
    return replace(trees, trees=made), key


Ask = Callable[[Sequence[Segment]], list[Segment]]


def asked_each_step(
    ref_model: Any, reference: Learner, assembled: Assembled, trees: Sequence[Segment]
) -> tuple[Ask, str]:
    """What attaches the reference's log-probabilities to the trees of a step, and the hash of who is asked on what.

    The policy as it is now is kept as a copy of its trainable weights; a `ref_model` is asked itself.
    """
    runtime, learner = assembled.runtime, assembled.learner
    identity = content_hash(reference.model, trees, str(runtime.autocast_dtype))
    weights: Callable[[], AbstractContextManager[None]] = (
        StartingWeights(learner.model) if ref_model is None else nullcontext
    )

    def ask(rows: Sequence[Segment]) -> list[Segment]:
        found = asked_now(rows, reference, weights, max_tokens=assembled.budget.max_tokens, autocast=runtime.autocast)
        if ref_model is not None:
            reference.release()  # it is the user's
        return found

    return ask, identity
