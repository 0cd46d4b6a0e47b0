"""`KTOTrainer` and `BCOTrainer`: learning from answers marked good or bad, with the constructors of TRL's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from posttrain.algorithms.unpaired import UnpairedBatch, UnpairedLoss, unpaired_batch
from posttrain.config.unpaired import BCOConfig, KTOConfig, UnpairedConfig
from posttrain.data.trees import TreeSet
from posttrain.data.unpaired import unpaired_trees
from posttrain.errors import ConfigError
from posttrain.models.reference import FollowingWeights, StartingWeights, asked_now, tree_logprobs
from posttrain.sources.following import FollowingSource
from posttrain.sources.mismatched import MismatchedKL
from posttrain.sources.offline import OfflineSource
from posttrain.sources.unpaired import Baseline, Middle, UnpairedSource, Zero, with_baseline
from posttrain.trainers.assembly import Assembled, assemble, resolve_tokenizer
from posttrain.trainers.labels import labels_hash, with_balance
from posttrain.trainers.lengths import column_of_lengths, of_trees
from posttrain.trainers.offline import offline_plan
from posttrain.trainers.predictions import Predictions
from posttrain.trainers.references import attach_reference, check_ref_model, check_synced, reference_learner
from posttrain.trainers.trainer import Plan, Trainer
from posttrain.types import Batch, Segment, Source


class KTOTrainer(Trainer):
    """Trains a model towards the answers marked good and away from those marked bad.

        trainer = KTOTrainer(model="path", args=KTOConfig(beta=0.1), train_dataset=rows)
        trainer.train()

    Rows have a prompt, a completion and a `label` of true or false; pairs are taken apart. `ref_model=None` is the
    model as it is now. Its log-probabilities of the answers are computed once and kept in `output_dir/reference`.
    """

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: KTOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Callable[..., Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        config = args or KTOConfig()
        if not isinstance(config, KTOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; KTOTrainer takes a KTOConfig of posttrain")
        if config.sync_ref_model:
            check_synced(ref_model, model, peft_config)
        loss = UnpairedLoss(
            loss_type=config.loss_type,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        assembled, plan, tokenizer = _planned(
            model, ref_model, config, loss, train_dataset, eval_dataset, processing_class, peft_config, callbacks,
            compute_metrics, preprocess_logits_for_metrics,
        )  # fmt: skip
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)


class BCOTrainer(Trainer):
    """Trains a model as a classifier that tells answers marked good from those marked bad by their rewards.

        trainer = BCOTrainer(model="path", args=BCOConfig(beta=0.1), train_dataset=rows)
        trainer.train()

    Rows and reference are those of KTOTrainer.
    """

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: BCOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Callable[..., Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        config = args or BCOConfig()
        if not isinstance(config, BCOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; BCOTrainer takes a BCOConfig of posttrain")
        loss = UnpairedLoss(loss_type="bco", beta=config.beta)
        assembled, plan, tokenizer = _planned(
            model, ref_model, config, loss, train_dataset, eval_dataset, processing_class, peft_config, callbacks,
            compute_metrics, preprocess_logits_for_metrics,
        )  # fmt: skip
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)


def _planned(
    model: Any,
    ref_model: Any,
    config: UnpairedConfig,
    loss: UnpairedLoss,
    train_dataset: Any,
    eval_dataset: Any,
    processing_class: Any,
    peft_config: Any,
    callbacks: Sequence[TrainerCallback] | None,
    compute_metrics: Callable[..., Any] | None,
    preprocess: Callable[..., Any] | None,
) -> tuple[Assembled, Plan, PreTrainedTokenizerBase]:
    check_ref_model(ref_model, model)
    tokenizer = resolve_tokenizer(model, processing_class, config)
    train_dataset, lengths = column_of_lengths(train_dataset, config)
    train, evaluation = (
        None if dataset is None else unpaired_trees(
            dataset, tokenizer, max_length=config.max_length, truncation_mode=config.truncation_mode,
            long_rows=config.long_rows, processes=config.dataset_num_proc, name=name,
        )
        for dataset, name in ((train_dataset, "train_dataset"), (eval_dataset, "eval_dataset"))
    )  # fmt: skip
    train = None if train is None else with_balance(train, config, loss)
    assembled = assemble(
        model, tokenizer, config, train=train, evaluation=evaluation, peft_config=peft_config, callbacks=callbacks,
        dropout=not config.disable_dropout,
    )  # fmt: skip
    learner, runtime, budget = assembled.learner, assembled.runtime, assembled.budget
    reference = reference_learner(ref_model, assembled, tokenizer, [train, evaluation])
    synced = isinstance(config, KTOConfig) and config.sync_ref_model
    following = FollowingWeights(learner.model) if synced else None
    measured = loss.form.baseline == "mismatched"  # on rows that are made in each step
    starting = StartingWeights(learner.model) if measured and ref_model is None and not synced else None
    identity = "the policy, followed"
    if following is None:
        train, identity = attach_reference(train, reference, assembled)
        evaluation, _ = attach_reference(evaluation, reference, assembled)
        reference.release()

    def policy(trees: Sequence[Segment]) -> list[list[float]]:
        return tree_logprobs(trees, learner, budget.max_tokens, runtime.autocast)

    def referee(trees: Sequence[Segment]) -> list[list[float]]:
        weights = following or starting
        if weights is not None:
            with weights():
                return policy(trees)
        values = tree_logprobs(trees, reference, budget.max_tokens, runtime.autocast)
        reference.release()  # it is the user's, and nobody else would give it back
        return values

    baseline: Baseline = Middle() if loss.form.baseline == "middle" else Zero()
    if measured:
        longest = _longest(learner.model, config, train, evaluation)
        baseline = MismatchedKL(policy, referee, beta=loss.beta, max_length=longest, runtime=runtime)

    def build(trees: Sequence[Segment]) -> UnpairedBatch:
        if following is None:
            return unpaired_batch(trees)
        return unpaired_batch(
            asked_now(trees, learner, following, max_tokens=budget.max_tokens, autocast=runtime.autocast)
        )

    def attach(batch: Batch) -> Batch:
        assert isinstance(batch, UnpairedBatch)
        return with_baseline(batch, baseline, runtime)[0]

    plan = offline_plan(
        assembled, train=train, evaluation=evaluation, build=build, loss=loss, identity=identity, attach=attach,
        rewards="" if train is None else labels_hash(train.trees), ahead=following is None,
        lengths=of_trees(lengths, train),
        predictions=None if compute_metrics is None else Predictions(assembled, compute_metrics, preprocess),
    )  # fmt: skip
    rows = plan.source

    def source() -> Source:
        assert rows is not None
        inner: Any = rows()
        if following is not None:
            assert isinstance(inner, OfflineSource)
            assert isinstance(config, KTOConfig)
            share = config.ref_model_mixup_alpha
            inner = FollowingSource(inner, lambda: following.follow(share), steps=config.ref_model_sync_steps)
        return UnpairedSource(inner, baseline, runtime)

    plan = replace(plan, source=None if rows is None else source, start=starting)
    if following is not None:
        plan = replace(plan, write_beside=following.save, read_beside=following.load)
    return assembled, plan, tokenizer


def _longest(model: Any, config: UnpairedConfig, *datasets: TreeSet | None) -> int | None:
    """Tokens of a row made of two: `max_length`, or what the model has room for; no less than the longest row."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (config.max_length, positions) if limit is not None]
    rows = [data.report.lengths["longest"] for data in datasets if data is not None]
    return max([min(limits), *rows]) if limits else None
