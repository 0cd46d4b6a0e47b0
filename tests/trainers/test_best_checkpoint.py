"""The best checkpoint by a metric of the evaluation, schedules that follow it, and what a resumed run knows of it."""

import json

import jobs
import pytest
import torch
from test_callbacks import build
from transformers import TrainerCallback

from posttrain import SFTConfig
from posttrain.errors import ConfigError, TrainingError

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def script(trainer, losses):
    """The evaluation gives these losses, one after the other."""
    values = iter(losses)
    object.__setattr__(trainer._plan, "evaluate", lambda: {"eval_loss": next(values), "eval_accuracy": 0.5})
    return trainer


def kept(output_dir):
    return sorted(path.name for path in output_dir.glob("checkpoint-*"))


def weights(output_dir, step):
    from safetensors.torch import load_file

    return load_file(output_dir / f"checkpoint-{step}" / "model.safetensors")


def same(model, saved):
    state = model.state_dict()
    return all(torch.equal(state[name], value) for name, value in saved.items())


def test_load_best_model_at_end_loads_the_best_and_the_limit_keeps_it(tmp_path):
    trainer = script(
        build(tmp_path, load_best_model_at_end=True, save_total_limit=2, **EVERY_STEP), [3.0, 1.0, 2.0, 1.0]
    )
    trainer.train()
    assert same(trainer.model, weights(tmp_path, 2))
    assert kept(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert not same(trainer.model, weights(tmp_path, 4))
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert (state["best_metric"], state["best_global_step"]) == (1.0, 2)  # equal is not better
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")


def test_a_limit_of_one_leaves_the_best_alone_in_the_end(tmp_path):
    trainer = script(
        build(tmp_path, load_best_model_at_end=True, save_total_limit=1, **EVERY_STEP), [3.0, 1.0, 2.0, 4.0]
    )
    trainer.train()
    assert kept(tmp_path) == ["checkpoint-2"]


def test_the_limit_alone_keeps_the_newest(tmp_path):
    build(tmp_path, save_total_limit=2, **EVERY_STEP).train()
    assert kept(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_save_strategy_best_writes_a_checkpoint_at_each_new_best(tmp_path):
    options = EVERY_STEP | {"save_strategy": "best"}
    trainer = script(build(tmp_path, load_best_model_at_end=True, **options), [2.0, 3.0, 1.0, float("nan")])
    trainer.train()
    assert kept(tmp_path) == ["checkpoint-1", "checkpoint-3"]
    assert same(trainer.model, weights(tmp_path, 3))


@pytest.mark.parametrize(
    ("more", "best"), [({}, 3), ({"metric_for_best_model": "eval_accuracy"}, 1), ({"greater_is_better": True}, 2)]
)
def test_metric_for_best_model_and_greater_is_better_say_which_is_the_best(tmp_path, more, best):
    options = {"metric_for_best_model": "loss"} | more
    trainer = script(build(tmp_path, **options, **EVERY_STEP), [2.0, 3.0, 1.0, 2.5])
    trainer.train()
    assert trainer.state.best_global_step == best
    assert same(trainer.model, weights(tmp_path, 4))  # nobody asked to load it


def test_the_best_of_the_checkpoints_is_loaded_where_better_steps_were_not_saved(tmp_path):
    options = EVERY_STEP | {"save_steps": 2}
    trainer = script(build(tmp_path, load_best_model_at_end=True, **options), [1.0, 3.0, 4.0, 5.0])
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (1, 1.0)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")


def test_a_metric_that_the_evaluation_lacks_ends_the_run_with_those_it_has(tmp_path):
    with pytest.raises(TrainingError, match=r"no 'eval_los'; did you mean 'eval_loss'\? \(it has eval_"):
        build(tmp_path, metric_for_best_model="los", **EVERY_STEP).train()


def test_eval_delay_leaves_out_the_first_evaluations(tmp_path):
    trainer = build(tmp_path / "steps", eval_strategy="steps", eval_steps=1, eval_delay=3)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [3, 4]
    trainer = build(tmp_path / "epochs", eval_strategy="epoch", eval_delay=2)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [4]


def test_the_last_step_is_evaluated_too(tmp_path):
    trainer = build(tmp_path, eval_strategy="steps", eval_steps=3)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [3, 4]


def rates(trainer):
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}}


def test_a_schedule_follows_the_evaluation(tmp_path):
    trainer = script(build(tmp_path / "min", **PLATEAU, **EVERY_STEP), [2.0, 3.0, 1.0, 4.0])
    trainer.train()
    assert rates(trainer) == [1e-3, 1e-3, 5e-4, 5e-4]  # the second evaluation was worse
    more = {"metric_for_best_model": "loss", "greater_is_better": True}
    trainer = script(build(tmp_path / "max", **PLATEAU, **more, **EVERY_STEP), [2.0, 3.0, 1.0, 4.0])
    trainer.train()
    assert rates(trainer) == [1e-3, 1e-3, 1e-3, 5e-4]
    greedy = {"patience": 0, "factor": 0.5, "min_lr": 1e-4, "max_lr": 1e-2}
    options = {"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": greedy} | EVERY_STEP
    trainer = script(build(tmp_path / "greedy", **options), [2.0, 1.0, 3.0, 3.0])
    trainer.train()
    assert rates(trainer) == [1e-3, 2e-3, 4e-3, 2e-3]


def test_an_evaluation_before_the_start_moves_no_schedule_and_is_no_best(tmp_path):
    trainer = script(build(tmp_path, eval_on_start=True, **PLATEAU, **EVERY_STEP), [0.5, 2.0, 1.5, 1.0, 0.75])
    trainer.train()
    assert rates(trainer) == [1e-3] * 4
    assert trainer.state.best_metric == 0.75


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **given):
        control.should_training_stop = state.global_step == 3


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_resumed_equals_uninterrupted_with_a_schedule_that_follows_and_a_best_checkpoint(tmp_path, strategy):
    options = {
        "eval_strategy": strategy, "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3,
        "metric_for_best_model": "loss", "greater_is_better": True,  # so that learning counts as a plateau
        "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.1},
    }  # fmt: skip
    whole = build(tmp_path / "whole", **options)
    whole.train()
    assert len(set(rates(whole))) > 1  # the schedule did something
    for step in (2, 3, 4):  # in an epoch, and at its end
        again = build(tmp_path / "whole", **options)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert jobs.weights_hash(again.model) == jobs.weights_hash(whole.model)
        assert rates(again) == rates(whole)
        for name in ("best_metric", "best_global_step", "best_model_checkpoint"):
            assert getattr(again.state, name) == getattr(whole.state, name)


def test_when_to_evaluate_may_change_at_a_resumption_unless_the_schedule_follows_it(tmp_path):
    from posttrain.errors import CheckpointError

    build(tmp_path / "plain", **EVERY_STEP).train()
    build(tmp_path / "plain", **EVERY_STEP | {"eval_steps": 2}).train(resume_from_checkpoint=True)
    build(tmp_path / "plateau", **PLATEAU, **EVERY_STEP).train()
    with pytest.raises(CheckpointError, match=r"eval_steps was 1\.0 and is 2\.0"):
        build(tmp_path / "plateau", **PLATEAU, **EVERY_STEP | {"eval_steps": 2}).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"load_best_model_at_end": True}, "load_best_model_at_end=True is about evaluations"),
        ({"save_strategy": "best"}, "save_strategy='best' is about evaluations"),
        ({"eval_delay": 3}, "eval_delay=3 is about evaluations"),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch"}, "save_strategy='steps' and eval_strategy='epoch'"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 3},
            "save_steps=3 is no multiple of eval_steps=2",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 3},
            "no multiple",
        ),
        ({"greater_is_better": True}, "only together with metric_for_best_model"),
        ({"lr_scheduler_type": "greedy"}, "follows the evaluation, and eval_strategy='no' makes none"),
        ({**PLATEAU, "eval_strategy": "epoch", "warmup_steps": 2}, "starts at learning_rate; leave it out"),
        (
            {"gate": "gate.yaml", "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 500},
            "keep one of them",
        ),
    ],
)
def test_settings_of_the_best_checkpoint_that_do_not_go_together_are_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        SFTConfig(**options)


def test_shares_of_a_run_that_are_multiples_are_taken_for_multiples():
    config = SFTConfig(load_best_model_at_end=True, eval_strategy="steps", eval_steps=0.1, save_steps=0.3)
    assert (config.metric_for_best_model, config.greater_is_better) == ("loss", False)


def test_greedy_is_refused_where_it_would_jump_to_a_bound(tmp_path):
    with pytest.raises(ConfigError, match=r"between 0.001 and 1, and learning_rate=2e-05 lies outside"):
        build(tmp_path, lr_scheduler_type="greedy", learning_rate=2e-5, **EVERY_STEP)
