"""`CPOTrainer` and `ORPOTrainer`: preferences without a reference model, with the constructors of TRL's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from posttrain.algorithms.dpo import DPOLoss, dpo_batch
from posttrain.config.pairs import PairConfig
from posttrain.config.reference_free import CPOConfig, ORPOConfig
from posttrain.errors import ConfigError
from posttrain.trainers.assembly import Assembled, resolve_tokenizer
from posttrain.trainers.lengths import column_of_lengths, of_trees
from posttrain.trainers.offline import offline_plan
from posttrain.trainers.pairs import assemble_pairs
from posttrain.trainers.predictions import Predictions
from posttrain.trainers.trainer import Plan, Trainer


class CPOTrainer(Trainer):
    """Trains a model to prefer the chosen answers by their log-probabilities alone: CPO, SimPO and AlphaPO.

    trainer = CPOTrainer(model="path", args=CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0), train_dataset=pairs)
    trainer.train()
    """

    def __init__(
        self,
        model: Any,
        args: CPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        compute_metrics: Callable[..., Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        config = args or CPOConfig()
        if not isinstance(config, CPOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; CPOTrainer takes a CPOConfig of posttrain")
        assembled, plan, tokenizer = _without_reference(
            model, config, cpo_loss(config), train_dataset, eval_dataset, processing_class, peft_config, callbacks,
            compute_metrics, preprocess_logits_for_metrics,
        )  # fmt: skip
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)


class ORPOTrainer(Trainer):
    """Trains a model on the chosen answers and against the odds of the rejected ones, in one stage after pretraining.

    trainer = ORPOTrainer(model="path", args=ORPOConfig(beta=0.1), train_dataset=pairs)
    trainer.train()
    """

    def __init__(
        self,
        model: Any,
        args: ORPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        compute_metrics: Callable[..., Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        config = args or ORPOConfig()
        if not isinstance(config, ORPOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; ORPOTrainer takes an ORPOConfig of posttrain")
        loss = DPOLoss(beta=config.beta, loss_weights=(("orpo", 1.0), ("sft", 1.0)), mean_rewards=True)
        assembled, plan, tokenizer = _without_reference(
            model, config, loss, train_dataset, eval_dataset, processing_class, peft_config, callbacks,
            compute_metrics, preprocess_logits_for_metrics,
        )  # fmt: skip
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)


def cpo_loss(config: CPOConfig) -> DPOLoss:
    """The loss that the configuration names, with the likelihood of the chosen answers where it has a weight."""
    by_means = config.loss_type in ("simpo", "alphapo")
    name = {"sigmoid": "cpo", "alphapo": "simpo"}.get(config.loss_type, config.loss_type)
    likelihood = 0.0 if config.loss_type == "alphapo" else config.cpo_alpha
    return DPOLoss(
        beta=config.beta,
        loss_weights=((name, 1.0), ("sft", likelihood)) if likelihood else ((name, 1.0),),
        label_smoothing=config.label_smoothing,
        simpo_gamma=config.simpo_gamma,
        reward_alpha=config.alpha,
        mean_rewards=by_means,
    )


def _without_reference(
    model: Any,
    config: PairConfig,
    loss: DPOLoss,
    train_dataset: Any,
    eval_dataset: Any,
    processing_class: Any,
    peft_config: Any,
    callbacks: Sequence[TrainerCallback] | None,
    compute_metrics: Callable[..., Any] | None,
    preprocess: Callable[..., Any] | None,
) -> tuple[Assembled, Plan, PreTrainedTokenizerBase]:
    tokenizer = resolve_tokenizer(model, processing_class, config)
    train_dataset, lengths = column_of_lengths(train_dataset, config)
    assembled, train, evaluation = assemble_pairs(
        model, tokenizer, config, train_dataset, eval_dataset, peft_config=peft_config, callbacks=callbacks
    )
    plan = offline_plan(
        assembled, train=train, evaluation=evaluation, build=dpo_batch, loss=loss, lengths=of_trees(lengths, train),
        predictions=None if compute_metrics is None else Predictions(assembled, compute_metrics, preprocess),
    )  # fmt: skip
    return assembled, plan, tokenizer
