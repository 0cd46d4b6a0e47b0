"""`GRPOTrainer`: online reinforcement learning with advantages relative to a group, with the constructor of TRL's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm
from transformers import TrainerCallback

from posttrain.algorithms.grpo import PolicyLoss
from posttrain.config.grpo import GRPOConfig
from posttrain.config.training import TrainingConfig
from posttrain.data.prompts import PromptSet, prompt_set
from posttrain.errors import ConfigError
from posttrain.models.reference import StartingWeights, content_hash, tree_logprobs
from posttrain.rewards.combination import RewardSet
from posttrain.sampling.local import LocalSampler
from posttrain.sources.guards import ALARMS, OnlineGuards
from posttrain.sources.online import OnlinePlan, OnlineSource, sample_groups
from posttrain.sources.rollouts import rollout_metrics
from posttrain.sources.samples import SamplesFile
from posttrain.trainers.assembly import Assembled, assemble, resolve_tokenizer
from posttrain.trainers.trainer import Plan, Trainer
from posttrain.types import SamplingParams, Segment

EVALUATION_SEED = 1_000_003  # added to the seed, so that evaluation does not draw what training drew


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
        if reward_funcs is None or (isinstance(reward_funcs, Sequence) and not reward_funcs):
            raise ConfigError(
                "reward_funcs is missing: give a function f(completions, **columns) -> list of numbers, the name of a "
                "built-in reward (`posttrain grade --list` shows them), or a list of these"
            )
        rewards = RewardSet(
            reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs], weights=config.reward_weights
        )
        tokenizer = resolve_tokenizer(model, processing_class, config)

        def read(dataset: Any, name: str) -> PromptSet | None:
            if dataset is None:
                return None
            return prompt_set(dataset, tokenizer, template_kwargs=config.chat_template_kwargs, name=name)

        train, evaluation = read(train_dataset, "train_dataset"), read(eval_dataset, "eval_dataset")
        for prompts in (train, evaluation):
            if prompts is not None:
                rewards.check(prompts.report.columns)
        assembled = assemble(
            model, tokenizer, config, train=train, evaluation=evaluation, count=_count_steps, peft_config=peft_config,
            callbacks=callbacks, dropout=False, room=config.max_completion_length,
        )  # fmt: skip
        assembled.learner.temperature = config.temperature
        self._online = _Online(assembled, rewards, tokenizer, train, evaluation)
        shown = [_ShowCompletions(self._online)] if config.log_completions else []
        super().__init__(
            assembled,
            self._online.plan(),
            tokenizer=tokenizer,
            callbacks=[*(callbacks or []), *shown],
            optimizers=optimizers,
        )
        if self._online.sampler.note:
            self.say(self._online.sampler.note)


def _count_steps(config: TrainingConfig, prompts: int, processes: int) -> int:
    """Optimiser steps of the whole run; the last rollout is filled up with prompts of the next epoch."""
    assert isinstance(config, GRPOConfig)
    if config.max_steps > 0:
        return config.max_steps
    together = config.rollout_size(processes) * processes // config.num_generations
    rollouts = math.ceil(config.num_train_epochs * prompts / together)
    return rollouts * config.steps_per_pass(processes) * config.num_iterations


class _Online:
    """The parts of an online run: sampler, rewards, the model of the start, and what becomes of them."""

    def __init__(
        self,
        assembled: Assembled,
        rewards: RewardSet,
        tokenizer: Any,
        train: PromptSet | None,
        evaluation: PromptSet | None,
    ) -> None:
        assert isinstance(assembled.config, GRPOConfig)
        self.config, self.assembled, self.rewards = assembled.config, assembled, rewards
        self.train, self.evaluation = train, evaluation
        config, learner = self.config, assembled.learner
        self.sampler = LocalSampler(learner.model, tokenizer, max_rows=config.rollout_batch_size)
        self.params = SamplingParams(
            max_tokens=config.max_completion_length, temperature=config.temperature, top_p=config.top_p,
            top_k=config.top_k, min_p=config.min_p or 0.0, repetition_penalty=config.repetition_penalty,
            stop=config.stop,
        )  # fmt: skip
        asked = config.beta > 0 or config.track_kl
        self.start = StartingWeights(learner.model) if asked and train is not None else None
        self.identity = content_hash(learner.model, [], "") if train is not None else ""
        self.source: OnlineSource | None = None

    def plan(self) -> Plan:
        config = self.config
        loss = PolicyLoss(
            beta=config.beta, epsilon=config.epsilon, epsilon_high=config.epsilon_high, delta=config.delta,
            importance=config.importance_sampling_level, loss_type=config.loss_type, kl=config.kl_estimator,
            entropy_weight=config.entropy_coef, use_bias_correction_kl=config.use_bias_correction_kl,
        )  # fmt: skip
        named = frozenset(ALARMS) if config.stop_on_alarm is True else frozenset(config.stop_on_alarm or ())
        processes = self.assembled.runtime.world_size
        return Plan(
            source=self._source if self.train is not None else None,
            max_steps=_count_steps(config, len(self.train), processes) if self.train is not None else 0,
            report=self.train.report if self.train is not None else None,
            loss=loss,
            needs=loss.needs,
            evaluate=self._evaluate if self.evaluation is not None else None,
            watch=OnlineGuards(max_kl=config.max_kl),
            stop_on=named,
            start=self.start,
        )

    def _source(self) -> OnlineSource:
        config, runtime = self.config, self.assembled.runtime
        assert self.train is not None
        processes = runtime.world_size
        plan = OnlinePlan(
            params=self.params,
            num_generations=config.num_generations,
            groups=config.rollout_size(processes) // config.num_generations,
            steps=config.steps_per_pass(processes),
            num_iterations=config.num_iterations,
            loss_type=config.loss_type,
            importance=config.importance_sampling_level,
            scale=config.scale_rewards,
            baseline=config.advantage_baseline,
            mask_truncated=config.mask_truncated_completions,
            every_group=config.beta > 0 or config.entropy_coef > 0,
            reference_needed=config.beta > 0,
            kl_tracked=config.track_kl,
            resamples=config.max_resamples if config.dynamic_sampling else 0,
            random_rewards=config.control == "random-reward",
            strategy=config.train_sampling_strategy,
            seed=config.seed,
            order_seed=config.seed if config.data_seed is None else config.data_seed,
        )
        self.source = OnlineSource(
            self.train,
            plan,
            sampler=self.sampler,
            rewards=self.rewards,
            reference=self._reference if self.start is not None else None,
            samples=SamplesFile(Path(config.output_dir)) if config.save_samples else None,
            identity=self.identity,
            rank=runtime.rank,
            world_size=processes,
            gather=runtime.gather_objects,
            autocast=runtime.autocast,
            progress=self._bar("sampling"),
        )
        return self.source

    def _reference(self, trees: Sequence[Segment]) -> list[list[float]]:
        """The starting model's log-probabilities of the trained tokens of each tree."""
        assert self.start is not None
        assembled = self.assembled
        with self.start():
            return tree_logprobs(trees, assembled.learner, assembled.budget.max_tokens, assembled.runtime.autocast)

    def _evaluate(self) -> dict[str, float]:
        """The rewards of the evaluation prompts' answers, sampled as in training, with the prefix `eval_`."""
        assert self.evaluation is not None
        config, runtime = self.config, self.assembled.runtime
        count = config.num_generations_eval or config.num_generations
        numbers = list(range(len(self.evaluation)))[runtime.rank :: runtime.world_size]
        with runtime.autocast():
            groups, unjudged = sample_groups(
                self.evaluation, numbers, numbers, sampler=self.sampler, rewards=self.rewards, params=self.params,
                count=count, seed=config.seed + EVALUATION_SEED, progress=self._bar("evaluating"),
            )  # fmt: skip
        everyone = runtime.gather_objects([groups, unjudged])
        total = {name: sum(counts.get(name, 0) for _, counts in everyone) for name in unjudged}
        means = rollout_metrics([group for mine, _ in everyone for group in mine], total)
        return {f"eval_{name}": float(amount) / float(n) for name, (amount, n) in means.items() if n}

    def _bar(self, what: str) -> Any:
        """Told how many completions are done of how many: shows a bar on anything over two seconds."""
        hidden = True if not self.assembled.runtime.is_main else self.config.disable_tqdm
        bar: tqdm | None = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = tqdm(total=total, desc=what, unit="answer", delay=2, leave=False, disable=hidden)
            bar.update(done - bar.n)
            if done >= total:
                bar.close()
                bar = None

        return progress


class _ShowCompletions(TrainerCallback):
    """Prints completions of the last rollout when metrics are shown."""

    def __init__(self, online: _Online) -> None:
        self._online = online

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        source = self._online.source
        if source is not None and state.is_world_process_zero and "reward" in (logs or {}):
            _print_groups(source, self._online.config.num_completions_to_print, state.global_step)


def _print_groups(source: OnlineSource, limit: int | None, step: int) -> None:
    table = Table(title=f"Completions at step {step}", show_lines=True)
    for heading in ("Prompt", "Completion", "Reward", "Advantage"):
        table.add_column(heading)
    rows = [(group, member) for group in source.latest for member in group.members]
    for group, member in rows[:limit]:
        numbers = [escape(f"{value:.3f}") if value is not None else "-" for value in (member.reward, member.advantage)]
        table.add_row(escape(source.prompt_text(group)), escape(member.completion.text), *numbers)
    Console().print(table)
