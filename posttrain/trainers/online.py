"""What every online trainer is made of: sampler, rewards, the model of the start, evaluation, and what is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from posttrain.config.online import OnlineConfig
from posttrain.config.training import TrainingConfig
from posttrain.data.prompts import PromptSet, prompt_set
from posttrain.engine.step import LossFunction
from posttrain.errors import ConfigError
from posttrain.models.learner import Learner
from posttrain.models.loading import load_model
from posttrain.models.reference import StartingWeights, content_hash, tree_logprobs
from posttrain.rewards.combination import RewardSet
from posttrain.rewards.notes import KEYWORDS, RewardNotes, summed
from posttrain.sampling.local import LocalSampler
from posttrain.sources.grading import sample_groups
from posttrain.sources.guards import ALARMS, OnlineGuards
from posttrain.sources.online import Algorithm, OnlinePlan, OnlineSource
from posttrain.sources.rollouts import rollout_metrics
from posttrain.sources.samples import SamplesFile
from posttrain.trainers.assembly import Assembled, assemble, load_beside, resolve_tokenizer
from posttrain.trainers.trainer import Plan
from posttrain.types import SamplingParams, Segment

EVALUATION_SEED = 1_000_003  # added to the seed, so that evaluation does not draw what training drew


class Online:
    """The parts of an online run, and the plan that an algorithm makes of them."""

    def __init__(
        self,
        model: Any,
        config: OnlineConfig,
        *,
        reward_funcs: Any,
        train_dataset: Any,
        eval_dataset: Any,
        processing_class: Any,
        callbacks: Sequence[TrainerCallback] | None,
        peft_config: Any,
        passes: int,
    ) -> None:
        """`passes` is how often every rollout is passed over."""
        if reward_funcs is None or (isinstance(reward_funcs, Sequence) and not reward_funcs):
            raise ConfigError(
                "reward_funcs is missing: give a function f(completions, **columns) -> list of numbers, the name of a "
                "built-in reward (`posttrain grade --list` shows them), or a list of these"
            )
        self.rewards = RewardSet(
            reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs], weights=config.reward_weights
        )
        self.tokenizer = resolve_tokenizer(model, processing_class, config)

        def read(dataset: Any, name: str) -> PromptSet | None:
            if dataset is None:
                return None
            return prompt_set(dataset, self.tokenizer, template_kwargs=config.chat_template_kwargs, name=name)

        self.train, self.evaluation = read(train_dataset, "train_dataset"), read(eval_dataset, "eval_dataset")
        for prompts in (self.train, self.evaluation):
            if prompts is not None:
                self.rewards.check(prompts.report.columns, extras=KEYWORDS)
        self._state = TrainerState()
        self.notes = RewardNotes(lambda: self._state)
        self.passes = passes
        self.assembled: Assembled = assemble(
            model, self.tokenizer, config, train=self.train, evaluation=self.evaluation, count=self._count_steps,
            peft_config=peft_config, callbacks=callbacks, dropout=False, room=config.max_completion_length,
        )  # fmt: skip
        assert isinstance(self.assembled.config, OnlineConfig)
        self.config: OnlineConfig = self.assembled.config
        self.policy: Learner = self.assembled.learner
        self.policy.temperature = config.temperature
        self.sampler = LocalSampler(self.policy.model, self.tokenizer, max_rows=config.rollout_batch_size)
        self.params = SamplingParams(
            max_tokens=config.max_completion_length, temperature=config.temperature, top_p=config.top_p,
            top_k=config.top_k, min_p=config.min_p or 0.0, repetition_penalty=config.repetition_penalty,
            stop=config.stop,
        )  # fmt: skip
        self.reference: Learner | None = None  # None: the policy as it is now
        asked = config.reference_needed or config.track_kl
        self.start = StartingWeights(self.policy.model) if asked and self.train is not None else None
        self.identity = content_hash(self.policy.model, [], "") if self.train is not None else ""
        self.source: OnlineSource | None = None

    def _count_steps(self, config: TrainingConfig, prompts: int, processes: int) -> int:
        """Optimiser steps of the whole run; the last rollout is filled up with prompts of the next epoch."""
        assert isinstance(config, OnlineConfig)
        if config.max_steps > 0:
            return config.max_steps
        together = config.rollout_size(processes) * processes // config.num_generations
        rollouts = math.ceil(config.num_train_epochs * prompts / together)
        return rollouts * config.steps_per_pass(processes) * self.passes

    def load_beside(self, model: Any, *, name: str, load: Callable[..., Any] = load_model) -> PreTrainedModel:
        """Another model that reads the rollouts, where the policy is; `name` is the argument it was given as."""
        return load_beside(
            model, self.assembled.runtime.device, self.config, name=name, tokenizer=self.tokenizer,
            rows=[self.train], room=self.config.max_completion_length, load=load,
        )  # fmt: skip

    def take_reference(self, reference: Learner) -> None:
        """Takes another model than the policy's start as the reference."""
        reference.temperature = self.policy.temperature
        reference.requires_grad_(False)
        self.reference, self.start = reference, None
        self.identity += content_hash(reference.model, [], "")

    def callbacks(self) -> list[TrainerCallback]:
        """What the rewards need to know of the run, and the one that prints completions where that is asked for."""
        return [_TellRewards(self), *([_ShowCompletions(self)] if self.config.log_completions else [])]

    def begin(self, state: TrainerState) -> None:
        """The run whose state this is begins."""
        self._state = state

    def plan(
        self,
        loss: LossFunction,
        algorithm: Callable[[PromptSet, OnlinePlan], Algorithm],
        *,
        needs: tuple[str, ...] = (),
        resamples: int = 0,
        **more: Any,
    ) -> Plan:
        """What the trainer is to do; `more` are further fields of the plan."""
        config, train = self.config, self.train
        named = frozenset(ALARMS) if config.stop_on_alarm is True else frozenset(config.stop_on_alarm or ())
        processes = self.assembled.runtime.world_size
        seen = self.train if self.evaluation is None else self.evaluation
        return Plan(
            source=None if train is None else lambda: self._source(train, algorithm, resamples),
            max_steps=0 if train is None else self._count_steps(config, len(train), processes),
            report=None if train is None else train.report,
            loss=loss,
            needs=needs,
            evaluate=None if self.evaluation is None else self._evaluate,
            watch=OnlineGuards(
                max_kl=config.max_kl,
                learned=self.rewards.learned,
                checked=[name for name in self.rewards.names if name not in self.rewards.learned],
            ),
            stop_on=named,
            start=self.start,
            prompts=lambda: [] if seen is None else [row.tokens for row in seen.prompts],
            **more,
        )

    def _source(
        self, train: PromptSet, algorithm: Callable[[PromptSet, OnlinePlan], Algorithm], resamples: int
    ) -> OnlineSource:
        config, runtime = self.config, self.assembled.runtime
        processes = runtime.world_size
        plan = OnlinePlan(
            params=self.params,
            num_generations=config.num_generations,
            groups=config.rollout_size(processes) // config.num_generations,
            steps=config.steps_per_pass(processes),
            num_iterations=self.passes,
            reference_needed=config.reference_needed,
            kl_tracked=config.track_kl,
            resamples=resamples,
            random_rewards=config.control == "random-reward",
            strategy=config.train_sampling_strategy,
            seed=config.seed,
            order_seed=config.seed if config.data_seed is None else config.data_seed,
        )
        self.source = OnlineSource(
            train,
            plan,
            algorithm(train, plan),
            sampler=self.sampler,
            rewards=self.rewards,
            reference=self._reference if config.reference_needed or config.track_kl else None,
            samples=SamplesFile(Path(config.output_dir)) if config.save_samples else None,
            notes=self.notes,
            identity=self.identity,
            rank=runtime.rank,
            world_size=processes,
            gather=runtime.gather_objects,
            autocast=runtime.autocast,
            progress=self._bar("sampling"),
        )
        return self.source

    def _reference(self, trees: Sequence[Segment]) -> list[list[float]]:
        """The reference's log-probabilities of the trained tokens of each tree."""
        max_tokens, autocast = self.assembled.budget.max_tokens, self.assembled.runtime.autocast
        if self.reference is not None:
            return tree_logprobs(trees, self.reference, max_tokens, autocast)
        assert self.start is not None
        with self.start():
            return tree_logprobs(trees, self.policy, max_tokens, autocast)

    def _evaluate(self) -> dict[str, float]:
        """The rewards of the evaluation prompts' answers, sampled as in training, with the prefix `eval_`."""
        assert self.evaluation is not None
        config, runtime = self.config, self.assembled.runtime
        count = config.num_generations_eval or config.num_generations
        numbers = list(range(len(self.evaluation)))[runtime.rank :: runtime.world_size]
        with runtime.autocast():
            groups, unjudged = sample_groups(
                self.evaluation, numbers, numbers, sampler=self.sampler, rewards=self.rewards, params=self.params,
                count=count, seed=config.seed + EVALUATION_SEED, notes=self.notes, progress=self._bar("evaluating"),
            )  # fmt: skip
        everyone = runtime.gather_objects([groups, unjudged, self.notes.take_metrics()])
        total = {name: sum(counts.get(name, 0) for _, counts, _ in everyone) for name in unjudged}
        means = rollout_metrics([group for mine, _, _ in everyone for group in mine], total)
        means |= summed([noted for _, _, noted in everyone])
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


class _TellRewards(TrainerCallback):
    """Hands the rewards the run's state, and ends their processes with it."""

    def __init__(self, online: Online) -> None:
        self._online = online

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._online.begin(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._online.rewards.close()


class _ShowCompletions(TrainerCallback):
    """Prints completions of the last rollout when metrics are shown."""

    def __init__(self, online: Online) -> None:
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
