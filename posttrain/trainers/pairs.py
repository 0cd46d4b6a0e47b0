"""What trainers on preference pairs do first: read the pairs, then model and machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from posttrain.config.pairs import PairConfig
from posttrain.data.trees import TreeSet, preference_trees
from posttrain.trainers.assembly import Assembled, assemble
from posttrain.trainers.streaming import is_streamed, stream_of


def assemble_pairs(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: PairConfig,
    train_dataset: Any,
    eval_dataset: Any,
    *,
    peft_config: Any,
    callbacks: Sequence[TrainerCallback] | None,
) -> tuple[Assembled, TreeSet | None, TreeSet | None]:
    """The learner on its machine, and the pairs of both datasets as trees; None for a dataset that is not given."""

    def read(dataset: Any, name: str) -> TreeSet | None:
        if dataset is None:
            return None
        make = partial(
            preference_trees, tokenizer=tokenizer, max_length=config.max_length, truncation_mode=config.truncation_mode,
            long_rows=config.long_rows, processes=config.dataset_num_proc, name=name,
        )  # fmt: skip

        if name == "train_dataset" and is_streamed(dataset, config):
            return stream_of(dataset, make, config)
        return make(dataset)

    train, evaluation = read(train_dataset, "train_dataset"), read(eval_dataset, "eval_dataset")
    assembled = assemble(
        model, tokenizer, config, train=train, evaluation=evaluation, peft_config=peft_config, callbacks=callbacks,
        dropout=not config.disable_dropout,
    )  # fmt: skip
    return assembled, train, evaluation
