"""`GRPOTrainer`: online reinforcement learning with advantages relative to a group, with the constructor of TRL's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from posttrain.algorithms.grpo import PolicyLoss
from posttrain.config.grpo import GRPOConfig
from posttrain.data.prompts import PromptSet
from posttrain.errors import ConfigError
from posttrain.sources.group_relative import GroupRelative
from posttrain.sources.online import OnlinePlan
from posttrain.trainers.online import Online
from posttrain.trainers.trainer import Trainer


class GRPOTrainer(Trainer):
    """Trains a model on its own answers: each prompt is answered several times, and the better answers become likelier.

        def reward_func(completions, ground_truth, **kwargs):
            return [1.0 if truth in text else 0.0 for text, truth in zip(completions, ground_truth)]

        trainer = GRPOTrainer(model="path", reward_funcs=reward_func, args=GRPOConfig(...), train_dataset=prompts)
        trainer.train()

    A reward is a function, the name of a built-in one, or `file.py:function`; or a list of these. `train_dataset` has a
    column `prompt` (text or messages); its other columns are handed to the rewards.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
    ) -> None:
        config = args or GRPOConfig()
        if not isinstance(config, GRPOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; GRPOTrainer takes a GRPOConfig of posttrain")
        online = Online(
            model, config, reward_funcs=reward_funcs, train_dataset=train_dataset, eval_dataset=eval_dataset,
            processing_class=processing_class, callbacks=callbacks, peft_config=peft_config,
            passes=config.num_iterations,
        )  # fmt: skip
        runtime = online.assembled.runtime

        def algorithm(prompts: PromptSet, plan: OnlinePlan) -> GroupRelative:
            return GroupRelative(
                prompts,
                plan,
                loss_type=config.loss_type,
                importance=config.importance_sampling_level,
                scale=config.scale_rewards,
                baseline=config.advantage_baseline,
                mask_truncated=config.mask_truncated_completions,
                every_group=config.beta > 0 or config.entropy_coef > 0,
                rank=runtime.rank,
                gather=runtime.gather_objects,
            )

        loss = PolicyLoss(
            beta=config.beta, epsilon=config.epsilon, epsilon_high=config.epsilon_high, delta=config.delta,
            importance=config.importance_sampling_level, loss_type=config.loss_type, kl=config.kl_estimator,
            entropy_weight=config.entropy_coef, use_bias_correction_kl=config.use_bias_correction_kl,
        )  # fmt: skip
        plan = online.plan(
            loss, algorithm, needs=loss.needs, resamples=config.max_resamples if config.dynamic_sampling else 0
        )
        super().__init__(
            online.assembled,
            plan,
            tokenizer=online.tokenizer,
            callbacks=[*(callbacks or []), *online.callbacks()],
            optimizers=optimizers,
        )
        if online.sampler.note:
            self.say(online.sampler.note)
