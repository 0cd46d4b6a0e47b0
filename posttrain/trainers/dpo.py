"""`DPOTrainer`: direct preference optimisation, with the constructor of TRL's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from posttrain.algorithms.dpo import DPOBatch, DPOLoss, dpo_batch
from posttrain.config.dpo import DPOConfig
from posttrain.data.trees import TreeSet
from posttrain.engine.alarms import Watch
from posttrain.errors import ConfigError
from posttrain.models.reference import FollowingWeights, asked_now
from posttrain.sources.following import FollowingSource
from posttrain.sources.offline import OfflineSource
from posttrain.trainers.assembly import Assembled, resolve_tokenizer
from posttrain.trainers.displacement import displaced_pairs, naming_pairs
from posttrain.trainers.guards import OfflineGuards
from posttrain.trainers.lengths import column_of_lengths, of_trees
from posttrain.trainers.offline import offline_plan
from posttrain.trainers.pairs import assemble_pairs
from posttrain.trainers.predictions import Predictions
from posttrain.trainers.references import (
    Ask,
    asked_each_step,
    attach_reference,
    check_ref_model,
    check_synced,
    reference_learner,
)
from posttrain.trainers.trainer import Plan, Trainer
from posttrain.types import Segment, Source


class DPOTrainer(Trainer):
    """Trains a model to prefer the chosen answer of each pair to the rejected one.

        trainer = DPOTrainer(model=model, ref_model=None, args=DPOConfig(beta=0.1), train_dataset=pairs,
                             processing_class=tokenizer)
        trainer.train()

    `ref_model=None` is the model as it is now, whatever it consists of: its weights, an adapter just made or one that
    was trained before. The reference's log-probabilities are computed once and kept in `output_dir/reference`.
    """

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: DPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Callable[..., Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        config = args or DPOConfig()
        if not isinstance(config, DPOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; DPOTrainer takes a DPOConfig of posttrain")
        check_ref_model(ref_model, model)
        if config.sync_ref_model:
            check_synced(ref_model, model, peft_config)
        tokenizer = resolve_tokenizer(model, processing_class, config)
        train_dataset, lengths = column_of_lengths(train_dataset, config)
        assembled, train, evaluation = assemble_pairs(
            model, tokenizer, config, train_dataset, eval_dataset, peft_config=peft_config, callbacks=callbacks
        )
        reference = reference_learner(ref_model, assembled, tokenizer, [train, evaluation])
        identity = f"the policy, {config.ref_model_mixup_alpha:g} of it every {config.ref_model_sync_steps} steps"
        ask: Ask | None = None
        streamed = train is not None and train.stream is not None
        if streamed and config.sync_ref_model:
            raise ConfigError("sync_ref_model=True is not done with a streamed train_dataset; leave one out")
        if (streamed or config.precompute_ref_log_probs is False) and not config.sync_ref_model:
            ask, identity = asked_each_step(
                ref_model, reference, assembled, [] if train is None or streamed else train.trees
            )
        elif not config.sync_ref_model:
            rows = config.precompute_ref_batch_size
            train, identity = attach_reference(train, reference, assembled, rows=rows)
            evaluation, _ = attach_reference(evaluation, reference, assembled, rows=rows)
            reference.release()
        weights = config.loss_weights or [1.0] * len(config.loss_type)
        loss = DPOLoss(
            beta=config.beta,
            loss_weights=tuple(zip(config.loss_type, weights)),
            label_smoothing=config.label_smoothing,
            discopop_tau=config.discopop_tau,
            f_divergence_type=config.f_divergence_type,
            f_alpha_divergence_coef=config.f_alpha_divergence_coef,
            ld_alpha=config.ld_alpha,
            use_weighting=config.use_weighting,
        )
        weights_kept = FollowingWeights(assembled.learner.model) if config.sync_ref_model else None

        def build(trees: Sequence[Segment]) -> DPOBatch:
            if ask is not None:
                return dpo_batch(ask(trees))
            if weights_kept is None:
                return dpo_batch(trees)
            room, autocast = assembled.budget.max_tokens, assembled.runtime.autocast
            return dpo_batch(asked_now(trees, assembled.learner, weights_kept, max_tokens=room, autocast=autocast))

        predictions = None
        if compute_metrics is not None:
            predictions = Predictions(assembled, compute_metrics, preprocess_logits_for_metrics)
        plan = offline_plan(
            assembled, train=train, evaluation=evaluation, build=build, loss=loss, identity=identity,
            needs=loss.needs, watch=_guards(train, assembled, tokenizer), ahead=ask is None and weights_kept is None,
            predictions=predictions, lengths=of_trees(lengths, train),
        )  # fmt: skip
        if weights_kept is not None:
            plan = _following(plan, weights_kept, config)
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)


def _following(plan: Plan, weights: FollowingWeights, config: DPOConfig) -> Plan:
    """The plan with a reference that moves towards the policy, and is part of a checkpoint."""
    made = plan.source
    if made is None:
        return plan

    def source() -> Source:
        offline = made()
        assert isinstance(offline, OfflineSource)
        return FollowingSource(
            offline, lambda: weights.follow(config.ref_model_mixup_alpha), steps=config.ref_model_sync_steps
        )

    return replace(plan, source=source, write_beside=weights.save, read_beside=weights.load)


def _guards(train: TreeSet | None, assembled: Assembled, tokenizer: Any) -> Watch:
    config, runtime = assembled.config, assembled.runtime
    assert isinstance(config, DPOConfig)
    guards = OfflineGuards(beta=config.beta)
    asked_later = config.sync_ref_model or config.precompute_ref_log_probs is False
    if train is None or train.stream is not None or asked_later:  # pairs are named by what a reference said before
        return guards
    return naming_pairs(
        guards,
        lambda: displaced_pairs(
            train.trees, train.rows, assembled.learner, tokenizer,
            max_tokens=assembled.budget.max_tokens, autocast=runtime.autocast,
        ),
    )  # fmt: skip
