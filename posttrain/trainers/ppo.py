"""`PPOTrainer`: online reinforcement learning with a value model, with GRPO's constructor and two models more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from peft import TaskType
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from posttrain.algorithms.ppo import PPOLoss
from posttrain.config.ppo import PPOConfig
from posttrain.data.prompts import PromptSet
from posttrain.engine.optimizers import make_optimizer
from posttrain.errors import ConfigError
from posttrain.models.learner import Learner
from posttrain.models.locating import local_directory
from posttrain.models.lora import apply_lora
from posttrain.models.reference import content_hash
from posttrain.models.score_loading import load_score_model, score_model_of
from posttrain.models.value import ActorCritic, tree_values
from posttrain.sources.online import OnlinePlan
from posttrain.sources.per_token import PerToken, PerTokenPlan
from posttrain.sources.pieces import token_texts
from posttrain.trainers.online import Online
from posttrain.trainers.trainer import Trainer
from posttrain.types import Segment


class PPOTrainer(Trainer):
    """Trains a model on its own answers with an advantage for every token, which a value model learnt beside it gives.

        trainer = PPOTrainer(model="path", reward_funcs=["reward-model", check], args=PPOConfig(...),
                             train_dataset=prompts)
        trainer.train()

    Rewards and prompts are those of GRPOTrainer. `ref_model=None` is the model as it is now. `value_model=None` is a
    head on the model's own states; a path or a model is one of its own, such as the reward model, or the model's path
    once more. What is saved is the model alone; checkpoints hold the value model too.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: PPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        ref_model: Any = None,
        value_model: Any = None,
    ) -> None:
        config = args or PPOConfig()
        if not isinstance(config, PPOConfig):
            raise ConfigError(f"args is a {type(config).__name__}; PPOTrainer takes a PPOConfig of posttrain")
        _check_models(model, ref_model, value_model, config)
        _check_apart(value_model, ref_model, reward_funcs)
        online = Online(
            model, config, reward_funcs=reward_funcs, train_dataset=train_dataset, eval_dataset=eval_dataset,
            processing_class=processing_class, callbacks=callbacks, peft_config=peft_config,
            passes=config.num_ppo_epochs,
        )  # fmt: skip
        assembled, runtime = online.assembled, online.assembled.runtime
        if ref_model is not None:
            online.take_reference(Learner(online.load_beside(ref_model, name="ref_model")))
        learner = ActorCritic(
            online.policy, _value_model(value_model, online, peft_config), detached=config.detach_value_head
        )
        if not learner.shared:
            learner.switch_off_dropout()
            if config.gradient_checkpointing:
                learner.recompute_activations(**(config.gradient_checkpointing_kwargs or {}))
            online.identity += content_hash(learner.value_model, [], "")

        def values(trees: Sequence[Segment]) -> tuple[list[list[float]], list[float]]:
            return tree_values(
                trees, learner, assembled.budget.max_tokens, runtime.autocast, ends=config.bootstrap_truncated
            )

        def warm_up(warming_up: bool) -> None:
            learner.warming_up = warming_up

        def algorithm(prompts: PromptSet, plan: OnlinePlan) -> PerToken:
            return PerToken(
                prompts,
                plan,
                _per_token(config),
                values=values,
                warm_up=warm_up,
                texts=token_texts(online.tokenizer),
                gather=runtime.gather_objects,
            )

        loss = PPOLoss(
            cliprange=config.cliprange, cliprange_value=config.cliprange_value, vf_coef=config.vf_coef,
            entropy_weight=config.entropy_coef,
        )  # fmt: skip
        plan = online.plan(
            loss,
            algorithm,
            needs=loss.needs,
            learner=learner,
            optimizer=lambda: _optimizer(learner, config),
            write_beside=learner.save_value,
            read_beside=learner.load_value,
        )
        super().__init__(
            assembled,
            plan,
            tokenizer=online.tokenizer,
            callbacks=[*(callbacks or []), *online.callbacks()],
            optimizers=optimizers,
        )
        count = sum(parameter.numel() for parameter in learner.value_parameters())
        what = "a head on the policy's states" if learner.shared else "a model of its own"
        self.say(f"the value model is {what}, {count:,} parameters trained")
        if not learner.shared and learner.layout_note:
            self.say(f"the value model: {learner.layout_note}")
        if online.sampler.note:
            self.say(online.sampler.note)


def _check_models(model: Any, ref_model: Any, value_model: Any, config: PPOConfig) -> None:
    """Raises for what can be seen before anything is loaded."""
    for name, given in (("ref_model", ref_model), ("value_model", value_model)):
        if isinstance(given, str | os.PathLike):
            local_directory(given)  # a misspelt path is told before anything is read
        elif given is not None and given is model:
            raise ConfigError(
                f"{name} is the very model that is trained: it would change along. Leave {name}=None, or give a path "
                "or a copy."
            )
    if value_model is not None and config.detach_value_head:
        raise ConfigError(
            "detach_value_head=True is about a value head on the policy's states; this value_model has states of its "
            "own. Leave one of them out."
        )
    if ref_model is not None and not config.reference_needed and not config.track_kl:
        raise ConfigError("ref_model has no effect with kl_coef=0 and track_kl=False; leave it out")


def _check_apart(value_model: Any, ref_model: Any, reward_funcs: Any) -> None:
    """Raises where training the value model would change the reference or a reward."""
    if not isinstance(value_model, nn.Module):
        return
    mine = {id(parameter) for parameter in value_model.parameters()}
    rewards = reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    models = [reward.get("model") if isinstance(reward, Mapping) else reward for reward in rewards]
    for name, other in (("ref_model", ref_model), *(("a model of reward_funcs", model) for model in models)):
        if isinstance(other, nn.Module) and any(id(parameter) in mine for parameter in other.parameters()):
            raise ConfigError(
                f"value_model shares its weights with {name}, which would change along as it learns. Give value_model "
                "a path or a copy."
            )


def _value_model(given: Any, online: Online, peft_config: Any) -> Any:
    """The value model with a body of its own, ready to be trained; None for a head on the policy's states."""
    if given is None:
        return None
    model = score_model_of(online.load_beside(given, name="value_model", load=load_score_model))
    return apply_lora(model, peft_config, task_type=TaskType.SEQ_CLS)


def _per_token(config: PPOConfig) -> PerTokenPlan:
    return PerTokenPlan(
        gamma=config.gamma, lam=config.lam, lam_alpha=config.lam_alpha, value_lam=config.value_lam,
        kl_coef=config.kl_coef, kl_estimator=config.kl_estimator, kl_target=config.kl_target,
        kl_horizon=config.kl_horizon, whiten_rewards=config.whiten_rewards,
        missing_eos_penalty=config.missing_eos_penalty, bootstrap_truncated=config.bootstrap_truncated,
        mask_truncated=config.mask_truncated_completions, early_stop_kl=config.early_stop_kl,
        value_warmup_steps=config.value_warmup_steps,
    )  # fmt: skip


def _optimizer(learner: ActorCritic, config: PPOConfig) -> Optimizer:
    """One optimiser for both models, each with its learning rate."""
    if config.value_learning_rate is None:
        return make_optimizer(learner.parameters(), config)
    optimizer = make_optimizer(learner.policy.parameters(), config)
    of_values = config.model_copy(update={"learning_rate": config.value_learning_rate})
    for group in make_optimizer(learner.value_parameters(), of_values).param_groups:
        optimizer.add_param_group(group)
    return optimizer
