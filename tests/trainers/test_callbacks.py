"""transformers' callbacks, unchanged: what they are told and given, what they may ask for, what a resumed run keeps."""

import json

import jobs
import pytest
from padded_rows import CONVERSATIONS
from tiny import build_model, build_tokenizer
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from posttrain import SFTConfig, SFTTrainer
from posttrain.errors import ConfigError, TrainingError

EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


def build(output_dir, callbacks=(), **options):
    """Four rows in steps of two: two steps an epoch."""
    settings = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 2, "num_train_epochs": 2, "learning_rate": 1e-3,
        "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "bf16": False, "num_threads": 1,
        "disable_tqdm": True,
    } | options  # fmt: skip
    return SFTTrainer(
        model=build_model("gpt2"), args=SFTConfig(**settings), train_dataset=CONVERSATIONS[:4],
        eval_dataset=CONVERSATIONS[4:6], processing_class=build_tokenizer(), callbacks=list(callbacks),
    )  # fmt: skip


class Witness(TrainerCallback):
    """Writes down every event with the step, and what it was given."""

    def __init__(self):
        self.told, self.given = [], {}


def _witness(event):
    def tell(self, args, state, control, **given):
        self.told.append((event, state.global_step))
        self.given[event] = {"args": args, "control": vars(control).copy(), **given}

    return tell


for name in EVENTS:
    setattr(Witness, name, _witness(name))


def test_events_come_in_transformers_order_with_transformers_arguments(tmp_path):
    witness = Witness()
    trainer = build(tmp_path, [witness], num_train_epochs=1, eval_strategy="steps", eval_steps=2, save_strategy="epoch")
    assert witness.told == [("on_init_end", 0)]
    trainer.train()
    step = ["on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"]
    assert [event for event, _ in witness.told] == [
        "on_init_end", "on_train_begin", "on_epoch_begin", *step, *step,
        "on_log", "on_evaluate", "on_epoch_end", "on_save", "on_log", "on_train_end",
    ]  # fmt: skip
    assert [at for event, at in witness.told if event in ("on_step_begin", "on_step_end")] == [0, 1, 1, 2]
    given = witness.given["on_step_end"]
    assert given["args"].learning_rate == 1e-3
    assert given["model"] is trainer.model
    assert given["processing_class"] is given["tokenizer"] is trainer.processing_class
    assert given["optimizer"].param_groups[0]["params"]
    assert hasattr(given["lr_scheduler"], "get_last_lr")
    assert given["train_dataloader"] is given["eval_dataloader"] is None
    assert "eval_loss" in witness.given["on_evaluate"]["metrics"]
    assert "train_runtime" in witness.given["on_log"]["logs"]
    trainer.evaluate()
    assert witness.told[-1] == ("on_evaluate", 2)


def test_a_pass_that_is_not_the_last_of_its_step_is_a_substep(tmp_path):
    witness = Witness()
    build(tmp_path, [witness], num_train_epochs=0.5, max_tokens_per_pass=1).train()
    events = [event for event, _ in witness.told]
    assert events.count("on_substep_end") == 1
    assert events.index("on_substep_end") < events.index("on_pre_optimizer_step")


def test_gradients_are_there_before_the_update_and_after_it(tmp_path):
    seen = []

    class Norms(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **given):
            self.before = next(model.parameters()).detach().clone()

        def on_optimizer_step(self, args, state, control, model=None, **given):
            parameter = next(model.parameters())
            seen.append((parameter.grad.norm().item(), (parameter - self.before).norm().item()))

    build(tmp_path, [Norms], num_train_epochs=0.5).train()
    assert all(norm > 0 and moved > 0 for norm, moved in seen)
    assert len(seen) == 1


class Ask(TrainerCallback):
    """Sets flags of the control at the end of given steps."""

    def __init__(self, **steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **given):
        for flag, steps in self.steps.items():
            if state.global_step in steps:
                setattr(control, flag, True)
        return control


def test_what_a_callback_asks_for_is_done_at_that_step_only(tmp_path):
    asks = Ask(should_log=[1], should_evaluate=[2], should_save=[3])
    trainer = build(tmp_path, [asks], logging_steps=4)
    trainer.train()
    history = trainer.state.log_history
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 4]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [2]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_callback_may_call_off_what_is_due(tmp_path):
    class Quiet(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            control.should_log = control.should_save = state.global_step == 3

    trainer = build(tmp_path, [Quiet], save_strategy="steps", save_steps=1)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [3]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_should_epoch_stop_goes_on_with_the_next_epoch_also_after_a_resumption(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 1}
    whole = build(tmp_path / "whole", [Ask(should_epoch_stop=[1])], **options)
    assert whole.train().global_step == 5  # one step of the first epoch, four of the second
    last = [entry["epoch"] for entry in whole.state.log_history if "loss" in entry]
    assert last == [0.25, 1.25, 1.5, 1.75, 2.0]
    again = build(tmp_path / "whole", [Ask(should_epoch_stop=[1])], **options)
    assert again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1")).global_step == 5
    assert jobs.weights_hash(again.model) == jobs.weights_hash(whole.model)


def test_a_callback_that_raises_is_named_with_event_and_step(tmp_path):
    class Careless(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            given["nothing"]

    with pytest.raises(
        TrainingError, match=r"the callback Careless raised KeyError in on_step_end at step 1: 'nothing'"
    ):
        build(tmp_path, [Careless]).train()


def test_what_is_no_callback_is_refused_before_the_model_loads(tmp_path):
    with pytest.raises(ConfigError, match="callbacks: function is no callback"):
        build(tmp_path, [lambda *given: None])
    with pytest.raises(ConfigError, match="dict is no callback"):
        build(tmp_path).add_callback({})


def test_callbacks_are_added_popped_and_removed_by_class_or_object(tmp_path, capsys):
    trainer = build(tmp_path, [PrinterCallback], num_train_epochs=0.5)
    witness = Witness()
    trainer.add_callback(witness)
    assert trainer.pop_callback(Witness) is witness
    assert trainer.pop_callback(Witness) is None
    trainer.remove_callback(ProgressCallback)  # which is not there, as in many tutorials
    trainer.train()
    assert not witness.told[1:]
    assert "'loss': '" in capsys.readouterr().out
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert "'loss': '" not in capsys.readouterr().out


def test_the_progress_bar_of_transformers_runs_and_the_own_one_gives_way(tmp_path, capsys):
    trainer = build(tmp_path, [ProgressCallback], eval_strategy="epoch", disable_tqdm=False)
    trainer.train()
    bars = capsys.readouterr().err
    assert "4/4" in bars
    assert "step/s" not in bars


class Counting(TrainerCallback, ExportableState):
    def __init__(self, step=1):
        self.step, self.total = step, 0

    def on_step_end(self, args, state, control, **given):
        self.total += self.step
        if state.global_step == 2 and self.step == 1:
            control.should_training_stop = getattr(self, "stops", False)

    def state(self):
        return {"args": {"step": self.step}, "attributes": {"total": self.total}}


def test_a_resumed_run_gives_callbacks_their_state_unless_told_not_to(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    build(tmp_path, [Counting(), Counting(10)], **options).train()
    saved = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert [state["attributes"]["total"] for state in saved["Counting"]] == [2, 20]

    def resumed(**more):
        callbacks = [Counting(), Counting(10)]
        trainer = build(tmp_path, callbacks, **options, **more)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        return [callback.total for callback in callbacks]

    assert resumed() == [4, 40]
    assert resumed(restore_callback_states_from_checkpoint=False) == [2, 20]


def test_a_state_that_no_checkpoint_could_hold_is_refused_before_training(tmp_path):
    class Heavy(Counting):
        def state(self):
            return {"args": {}, "attributes": {"model": object()}}

    with pytest.raises(ConfigError, match="the callback Heavy is an ExportableState, and its state cannot be written"):
        build(tmp_path, [Heavy]).train()


def test_transformers_reads_the_state_that_a_checkpoint_holds(tmp_path):
    build(tmp_path, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2).train()
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-4" / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.epoch, state.save_steps, state.eval_steps) == (4, 4, 2.0, 2, 2)
    assert state.log_history[0]["step"] == 1
    assert state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"] is False


def test_early_stopping_unchanged_ends_the_run_and_is_checked_first(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
               "num_train_epochs": 4, "learning_rate": 0.0}  # fmt: skip
    trainer = build(
        tmp_path, [EarlyStoppingCallback(early_stopping_patience=2)], load_best_model_at_end=True, **options
    )
    assert trainer.train().global_step == 3  # the first is the best, and two are no better
    assert trainer.state.best_global_step == 1
    with pytest.raises(ConfigError, match="EarlyStoppingCallback compares evaluations by metric_for_best_model"):
        build(tmp_path, [EarlyStoppingCallback()], **options)
    with pytest.raises(ConfigError, match="EarlyStoppingCallback reads evaluations"):
        build(tmp_path, [EarlyStoppingCallback], metric_for_best_model="loss")
