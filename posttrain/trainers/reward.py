"""`RewardTrainer`: a reward model from preferences, with the constructor of TRL's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from posttrain.algorithms.reward import RewardLoss, reward_batch, scored
from posttrain.config.reward import RewardConfig
from posttrain.data.loading import PROVENANCE, Rows, load_rows
from posttrain.data.per_source import per_source
from posttrain.data.trees import TreeSet, preference_trees
from posttrain.errors import ConfigError, DataError
from posttrain.rewards.columns import ANSWER_COLUMNS
from posttrain.rewards.names import REWARDS
from posttrain.trainers.assembly import assemble, resolve_tokenizer
from posttrain.trainers.held_out_pairs import HeldOut, HeldOutPairs
from posttrain.trainers.lengths import column_of_lengths, of_trees
from posttrain.trainers.offline import offline_plan
from posttrain.trainers.trainer import Trainer

MARGIN = "margin"
LEARNED = ("reward_model", "judge", "pairwise_judge")  # rewards that are opinions


class RewardTrainer(Trainer):
    """Trains a model to give the chosen answer of each pair a higher score than the rejected one.

        trainer = RewardTrainer(model="sft/model", args=RewardConfig(...), train_dataset=pairs, eval_dataset=held_out)
        trainer.train()
        trainer.evaluate()  # accuracy, margins and calibration, and the accuracy of the lengths alone

    A language model gets a fresh score head; a reward model is trained on. Rows are those of DPO, and may have a column
    `margin`. What is saved is transformers' AutoModelForSequenceClassification with num_labels=1.
    """

    def __init__(
        self,
        model: Any,
        args: RewardConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        config = args or RewardConfig()
        if not isinstance(config, RewardConfig):
            raise ConfigError(f"args is a {type(config).__name__}; RewardTrainer takes a RewardConfig of posttrain")
        tokenizer = resolve_tokenizer(model, processing_class, config)

        def read(dataset: Any, name: str) -> TreeSet | None:
            if dataset is None:
                return None
            return scored_pairs(dataset, tokenizer, config.max_length, processes=config.dataset_num_proc, name=name)

        train_dataset, lengths = column_of_lengths(train_dataset, config)
        train, evaluation = read(train_dataset, "train_dataset"), read(eval_dataset, "eval_dataset")
        assembled = assemble(
            model, tokenizer, config, train=train, evaluation=evaluation, peft_config=peft_config, callbacks=callbacks,
            dropout=not config.disable_dropout, scores=True,
        )  # fmt: skip
        loss = RewardLoss(centre=config.center_rewards_coefficient)
        plan = offline_plan(
            assembled, train=train, evaluation=evaluation, build=reward_batch, loss=loss,
            lengths=of_trees(lengths, train),
        )  # fmt: skip
        self._held_out: HeldOutPairs | None = None
        if evaluation is not None:
            self._held_out = HeldOutPairs(
                assembled, evaluation.trees, loss, trained=train.trees if train is not None else None
            )
            plan = replace(plan, evaluate=self._held_out)
        super().__init__(
            assembled, replace(plan, prompts=None), tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers
        )

    @property
    def held_out(self) -> HeldOut | None:
        """What the last evaluation found, with intervals; None before there was one."""
        return self._held_out.latest if self._held_out is not None else None


@per_source
def scored_pairs(
    dataset: Any,
    tokenizer: Any,
    max_length: int | None,
    *,
    processes: int | None = None,
    name: str = "train_dataset",
) -> TreeSet:
    """The dataset's pairs as trees whose answers are scored at their last token, with their margins if there are any.

    A row is rendered to its end, as transformers' `apply_chat_template` gives it, and a pair with a row longer than
    `max_length` is left out. Raises DataError as `preference_trees` does, and for a margin that is no number.
    """
    rows = load_rows(dataset, name=name)
    found = preference_trees(
        rows, tokenizer, max_length=max_length, truncation_mode=None, train_after_stop=True, purpose="A reward model",
        processes=processes, name=name,
    )  # fmt: skip
    has_margins = any(MARGIN in row for row in rows)  # a row that lacks it has none
    margins = _margins(rows, found.rows) if has_margins else [None] * len(found)
    report = found.report
    notes = list(report.notes)
    if has_margins:
        notes.append("The column 'margin' says by how much the scores of a pair should differ.")
    if (checker := _checker(rows[0], report.ignored_columns)) is not None:
        notes.append(
            f"{checker}: where an answer can be checked, a checker is exact and cannot be talked round, as a reward "
            "model can. `posttrain grade --list` shows the checkers; a reward model is for what no checker can tell."
        )
    report = replace(
        report,
        trained="the score of the chosen against that of the rejected answer, each read at the end of its row.",
        ignored_columns=tuple(column for column in report.ignored_columns if column != MARGIN),
        notes=tuple(notes),
    )
    trees = [scored(tree, margin) for tree, margin in zip(found.trees, margins)]
    return replace(found, trees=trees, report=report)


def _checker(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """What shows that these answers can be checked: a column with the right one, or a checker that judged them."""
    for column in ANSWER_COLUMNS:
        if column in columns:
            return f"The rows have a column {column!r}"
    notes = row.get(PROVENANCE)
    chosen = notes.get("chosen") if isinstance(notes, Mapping) else None
    scores = chosen.get("scores") if isinstance(chosen, Mapping) else None
    for name in scores if isinstance(scores, Mapping) else ():
        if name in REWARDS and name not in LEARNED:
            return f"The pairs were judged by {name!r}"
    return None


def _margins(rows: Rows, kept: Sequence[int]) -> list[float | None]:
    margins: list[float | None] = []
    for index in kept:
        value = rows[index].get(MARGIN)
        if value is None:
            margins.append(0.0)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(
                f"{rows.where(index)}: the margin is {value!r}; it must be a finite number, or empty for none: by "
                "how much the chosen answer's score should be above the rejected one's."
            )
        else:
            margins.append(float(value))
    return margins
