"""`OfflineRLTrainer`: reinforcement learning from answers that are there, each with a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from posttrain.algorithms.offline_rl import OFFLINE_LOSSES, OfflineRLLoss, offline_rl_batch
from posttrain.config.offline_rl import OfflineRLConfig
from posttrain.data.rewarded import RewardedSet, reward_trees
from posttrain.data.trees import TreeSet
from posttrain.errors import ConfigError
from posttrain.sources.weighing import WeighedSet, WeighingPlan, weigh
from posttrain.trainers.assembly import assemble, resolve_tokenizer
from posttrain.trainers.offline import offline_plan
from posttrain.trainers.offline_rl_evaluation import evaluate_answers
from posttrain.trainers.offline_rl_guards import OfflineRLGuards
from posttrain.trainers.references import attach_reference, check_ref_model, reference_learner
from posttrain.trainers.trainer import Trainer


class OfflineRLTrainer(Trainer):
    """Trains a model on answers with rewards, the better ones more, without sampling new ones.

        trainer = OfflineRLTrainer(model="path", args=OfflineRLConfig(...), train_dataset="runs/grpo/samples.jsonl")
        trainer.train()

    Rows have a prompt (text or messages), an answer (`completion` or `response`) and a `reward`; or they are the
    samples of any run, whose tokens are trained as they are. `ref_model=None` is the model as it is now; it is asked
    only where the loss needs it, and its answers are kept in `output_dir/reference`.
    """

    def __init__(
        self,
        model: Any,
        args: OfflineRLConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        ref_model: Any = None,
    ) -> None:
        config = args or OfflineRLConfig()
        if not isinstance(config, OfflineRLConfig):
            raise ConfigError(
                f"args is a {type(config).__name__}; OfflineRLTrainer takes an OfflineRLConfig of posttrain"
            )
        check_ref_model(ref_model, model)
        tokenizer = resolve_tokenizer(model, processing_class, config)

        def read(dataset: Any, name: str) -> RewardedSet | None:
            if dataset is None:
                return None
            return reward_trees(
                dataset, tokenizer, max_length=config.max_length, reward_column=config.reward_column,
                processes=config.dataset_num_proc, name=name,
            )  # fmt: skip

        rewarded, measured = read(train_dataset, "train_dataset"), read(eval_dataset, "eval_dataset")
        tapered = OFFLINE_LOSSES[config.loss_type].tapered
        asked = bool(config.beta) or (
            tapered and not all(s.knows_writer for s in (rewarded, measured) if s is not None)
        )
        if ref_model is not None and not asked:
            raise ConfigError(
                f"ref_model is asked for nothing with loss_type={config.loss_type!r} and beta=0; give beta a value, or "
                "leave ref_model out"
            )
        train = None if rewarded is None else weigh(rewarded, _weighing(config))
        measuring = replace(_weighing(config), shuffle_seed=None, keep_all=True, trained=False)
        evaluation = None if measured is None else weigh(measured, measuring)
        assembled = assemble(
            model, tokenizer, config, train=train, evaluation=evaluation, peft_config=peft_config, callbacks=callbacks,
            dropout=False,
        )  # fmt: skip
        reference = reference_learner(ref_model, assembled, tokenizer, [train, evaluation])
        identity = ""
        if asked:
            train, identity = attach_reference(train, reference, assembled)
            evaluation, _ = attach_reference(evaluation, reference, assembled)
            reference.release()
        self._weighed = train
        loss = OfflineRLLoss(loss_type=config.loss_type, beta=config.beta)
        build = partial(offline_rl_batch, aggregation=config.aggregation)
        plan = offline_plan(
            assembled, train=_as_trees(train), evaluation=_as_trees(evaluation), build=build, loss=loss,
            watch=OfflineRLGuards(signed=config.loss_type in ("reinforce", "topr")), identity=identity,
            rewards="" if train is None else train.content(),
        )  # fmt: skip
        if evaluation is not None:
            plan = replace(plan, evaluate=partial(evaluate_answers, assembled, evaluation, build, loss))
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        if self._weighed is not None and self._runtime.is_main:
            self._weighed.write(Path(self.args.output_dir))
        return super().train(resume_from_checkpoint)


def _weighing(config: OfflineRLConfig) -> WeighingPlan:
    return WeighingPlan(
        loss_type=config.loss_type,
        baseline=config.advantage_baseline,
        scale=config.scale,
        quantile=config.baseline_quantile,
        decay=config.baseline_decay,
        temperature=config.temperature,
        max_weight=config.max_weight,
        threshold=config.reward_threshold,
        normalize=config.loss_type == "awr" and config.normalize_weights,
        shuffle_seed=config.seed if config.control == "shuffled-reward" else None,
        keep_all=config.beta > 0,
    )


def _as_trees(weighed: WeighedSet | None) -> TreeSet | None:
    if weighed is None:
        return None
    return TreeSet(trees=weighed.trees, rows=[row.of.row for row in weighed.rows], report=weighed.report)
