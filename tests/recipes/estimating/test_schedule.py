"""How often a run does what."""

from __future__ import annotations

import pytest

from posttrain.config.grpo import GRPOConfig
from posttrain.config.ppo import PPOConfig
from posttrain.config.sft import SFTConfig
from posttrain.recipes.estimating.schedule import schedule


def test_epochs_of_rows() -> None:
    config = SFTConfig(num_train_epochs=2, per_device_train_batch_size=4, gradient_accumulation_steps=2, save_steps=5)
    made = schedule(config, 50, evaluates=False)
    # seven steps an epoch, the last of two rows; checkpoints at 5, 10 and at the end
    assert (made.steps, made.units, made.total) == (14, 8, 100)
    assert (made.checkpoints, made.kept, made.evaluations) == (3, 3, 0)


def test_evaluations_and_checkpoints_that_are_kept() -> None:
    config = SFTConfig(
        max_steps=30, per_device_train_batch_size=8, eval_strategy="steps", eval_steps=10, eval_on_start=True,
        save_steps=10, save_total_limit=2,
    )  # fmt: skip
    made = schedule(config, 80, evaluates=True)
    assert (made.total, made.evaluations, made.checkpoints, made.kept) == (240, 4, 3, 2)
    assert schedule(config.replace(save_strategy="no"), 80, evaluates=True).checkpoints == 0


@pytest.mark.parametrize(
    ("config", "steps", "cycle", "units"),
    [
        (GRPOConfig(max_steps=12, per_device_train_batch_size=16, num_generations=4), 12, 1, 4),
        (GRPOConfig(num_train_epochs=1, per_device_train_batch_size=8, steps_per_generation=2, num_iterations=3,
                    num_generations=4), 30, 6, 4),
        (PPOConfig(num_train_epochs=1, per_device_train_batch_size=5, num_mini_batches=2, num_ppo_epochs=2), 8, 4, 10),
    ],
)  # fmt: skip
def test_rollouts(config: object, steps: int, cycle: int, units: int) -> None:
    made = schedule(config, 20, evaluates=False)
    assert (made.steps, made.cycle, made.units) == (steps, cycle, units)
    assert made.sampled
