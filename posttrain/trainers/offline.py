"""The plan of a training on a dataset that is there before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posttrain.config.dataset import DatasetConfig
from posttrain.config.streaming import StreamingConfig
from posttrain.data.trees import TreeSet
from posttrain.engine.alarms import Watch
from posttrain.engine.evaluation import Evaluating, evaluate_loss
from posttrain.engine.step import LossFunction
from posttrain.errors import ConfigError
from posttrain.sources.ahead import AheadSource
from posttrain.sources.offline import OfflineSource
from posttrain.sources.streaming import StreamingSource
from posttrain.trainers.assembly import Assembled
from posttrain.trainers.checks import count_steps, rows_per_step
from posttrain.trainers.drifting import training_prompts
from posttrain.trainers.guards import OfflineGuards
from posttrain.trainers.predictions import Predictions
from posttrain.trainers.trainer import Plan
from posttrain.types import Batch, Segment, Source


def offline_plan(
    assembled: Assembled,
    *,
    train: TreeSet | None,
    evaluation: TreeSet | None,
    build: Callable[[Sequence[Segment]], Batch],
    loss: LossFunction,
    needs: tuple[str, ...] = (),
    watch: Watch | None = None,
    identity: str = "",
    rewards: str = "",
    attach: Callable[[Batch], Batch] = lambda batch: batch,
    lengths: Sequence[float] | None = None,
    predictions: Predictions | None = None,
    ahead: bool = True,
) -> Plan:
    """Passes over the trees of `train`, the loss of `evaluation`; watched by `OfflineGuards` unless by another.

    `identity` is the reference model's content hash, `rewards` that of what weights were made of; `needs` is what the
    loss asks of the learner beside log-probabilities. `attach` adds to a batch of `evaluation` what is known only over
    those of all processes. `lengths` is a column of the data's own, `predictions` collects what compute_metrics is
    given. Batches are laid out `ahead` only where they do not depend on the model.
    """
    config, runtime = assembled.config, assembled.runtime
    assert isinstance(config, DatasetConfig)
    workers, prefetch = config.dataloader_num_workers, config.dataloader_prefetch_factor or 2
    if workers and not ahead:
        raise ConfigError(
            f"dataloader_num_workers={workers}: batches are asked of the model as it is at each step, so none can be "
            "laid out ahead; leave it out"
        )

    def source() -> Source:
        assert train is not None
        seed = config.seed if config.data_seed is None else config.data_seed
        if train.stream is not None:
            assert isinstance(config, StreamingConfig)
            return StreamingSource(
                train.stream, build, rows_per_step=rows_per_step(config, runtime.world_size), seed=seed,
                buffer=config.shuffle_buffer_size if config.train_sampling_strategy == "random" else 1,
                rank=runtime.rank, world_size=runtime.world_size, identity=identity,
            )  # fmt: skip
        made = OfflineSource(
            train.trees,
            build,
            rows_per_step=rows_per_step(config, runtime.world_size),
            seed=seed,
            strategy=config.train_sampling_strategy,
            drop_last=config.dataloader_drop_last,
            rank=runtime.rank,
            world_size=runtime.world_size,
            identity=identity,
            rewards=rewards,
            shares=train.shares,
            lengths=lengths,
            skip_seen=not config.ignore_data_skip,
        )
        return AheadSource(made, workers=workers, prefetch=prefetch) if workers else made

    def evaluate() -> dict[str, float]:
        assert evaluation is not None
        share = evaluation.trees[runtime.rank :: runtime.world_size]
        batch = build(share) if share else build(evaluation.trees[:1]).nothing()
        if not share:
            batch.units.update(dict.fromkeys(batch.units, 0.0))
        metrics = evaluate_loss(
            assembled.learner, attach(batch), loss, runtime=runtime, max_tokens=assembled.budget.max_tokens,
            needs=needs, how=Evaluating.of(config, None if predictions is None else predictions.add),
        )  # fmt: skip
        return metrics if predictions is None else metrics | predictions.metrics()

    seen = train if evaluation is None else evaluation
    return Plan(
        source=source if train is not None else None,
        max_steps=count_steps(config, len(train), runtime.world_size) if train is not None else 0,
        report=train.report if train is not None else None,
        loss=loss,
        needs=needs,
        evaluate=evaluate if evaluation is not None else None,
        watch=watch or OfflineGuards(),
        prompts=None if seen is None else lambda: training_prompts(seen.trees),
    )
