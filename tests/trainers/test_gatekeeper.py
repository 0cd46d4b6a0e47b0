"""A run with a gate: checkpoints are measured, the last one that passes is promoted, an earlier one, or none."""

import json

import pytest
import torch
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from posttrain import SFTConfig, SFTTrainer
from posttrain.chat import CHATML
from posttrain.cli.main import main
from posttrain.errors import ConfigError

WORDS = ("fox", "wolf", "apple", "pear", "story", "fruit", "capital", "language", "model", "system")
KEPT = [f"Tell me who you are, {a} {b}" for a in WORDS[:5] for b in WORDS[5:]]  # answered before
NEW = [f"What is {a} + {b}?" for a in WORDS[:5] for b in WORDS[5:]]  # to be learned

TASKS = """
from posttrain.evaluation import Task

def make():
    def task(name, questions, answer):
        grader = {"right": lambda row, completion: completion.strip() == answer}
        return Task(name=name, rows=[{"prompt": q} for q in questions], graders=grader, max_new_tokens=8)
    return [task("kept", %r, "I am Qwen."), task("new", %r, "Paris.")]
""" % (KEPT, NEW)  # noqa: UP031, the text has braces of its own

GATE = """
targets: [{task: new, min_gain: 0.5}]
retention: [{task: kept, max_loss: 0.4}]
tasks: tasks.py:make
"""


def rows(questions, answer):
    return [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": answer}]} for q in questions]


def sft(model, directory, data, **options):
    settings = {
        "output_dir": str(directory), "per_device_train_batch_size": 10, "learning_rate": 3e-3, "use_cpu": True,
        "bf16": False, "num_threads": 1, "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
    } | options  # fmt: skip
    tokenizer = build_tokenizer(chat_template=CHATML)
    return SFTTrainer(model=model, args=SFTConfig(**settings), train_dataset=data, processing_class=tokenizer)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model that says who it is, and its directory."""
    folder = tmp_path_factory.mktemp("start")
    trainer = sft(build_model("qwen2"), folder, rows(KEPT, "I am Qwen."), max_steps=25, save_strategy="no")
    trainer.train()
    trainer.save_model(str(folder / "model"))
    (folder / "tasks.py").write_text(TASKS)
    (folder / "gate.yaml").write_text(GATE)
    return folder


BOTH = [row for pair in zip(rows(KEPT, "I am Qwen."), rows(NEW, "Paris."), strict=True) for row in pair] * 4
RUIN = rows(KEPT, "A story.") * 8


def gated(start, folder, data, **options):
    options = {"gate": str(start / "gate.yaml"), "num_train_epochs": 1, "save_steps": 10} | options
    trainer = sft(str(start / "model"), folder, data, **options)
    trainer.train()
    return trainer


def assert_is(model, path):
    saved = AutoModelForCausalLM.from_pretrained(path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), saved.parameters(), strict=True))


def test_a_good_run_is_promoted(start, tmp_path):
    trainer = gated(start, tmp_path, BOTH)
    assert (trainer.decision.status, trainer.decision.verdict) == (0, "promoted")
    stored = json.loads((tmp_path / "gate.json").read_text())
    assert stored["verdict"] == "promoted"
    assert next(log["retention/kept"] for log in trainer.state.log_history if "retention/kept" in log) == 1.0
    assert {"drift/prompts/kl_reverse", "target/new", "generation/repetition"} <= {
        name for entry in trainer.state.log_history for name in entry
    }
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["step-0", "step-10", "step-20"]
    assert_is(trainer.model, trainer.decision.promoted)  # which may be an earlier one that gained more


def test_a_run_that_forgets_late_is_taken_back_to_an_earlier_checkpoint(start, tmp_path):
    trainer = gated(start, tmp_path, BOTH + RUIN)
    assert (trainer.decision.status, trainer.decision.verdict) == (3, "earlier")
    assert "kept" in trainer.decision.sentence
    assert_is(trainer.model, trainer.decision.promoted)


def test_of_a_run_that_only_forgets_nothing_is_written(start, tmp_path, capsys):
    data = tmp_path / "ruin.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in RUIN))
    code = main(
        ["sft", "--model", str(start / "model"), "--train_dataset", str(data), "--output_dir", str(tmp_path / "out"),
         "--gate", str(start / "gate.yaml"), "--save_steps", "10", "--per_device_train_batch_size", "10",
         "--learning_rate", "3e-3", "--num_train_epochs", "1", "--use_cpu", "true", "--bf16", "false"]
    )  # fmt: skip
    assert code == 4
    assert "not promoted" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()


def test_a_resumed_run_measures_no_checkpoint_twice(start, tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 12

    options = {"gate": str(start / "gate.yaml"), "num_train_epochs": 1, "save_steps": 10}
    part = sft(str(start / "model"), tmp_path, BOTH, **options)
    part.add_callback(Stop)
    part.train()
    before = (tmp_path / "evaluation" / "step-10" / "new.jsonl").stat().st_mtime_ns
    whole = sft(str(start / "model"), tmp_path, BOTH, **options)
    whole.train(resume_from_checkpoint=True)
    assert (tmp_path / "evaluation" / "step-10" / "new.jsonl").stat().st_mtime_ns == before
    assert whole.decision.verdict == "promoted"
    # what was measured of other weights is not trusted
    measured = tmp_path / "evaluation" / "step-0" / "measured.json"
    measured.write_text(measured.read_text().replace('"weights": "', '"weights": "0'))
    again = sft(str(start / "model"), tmp_path, BOTH, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert '"weights": "0' not in measured.read_text()


def test_checkpoints_that_were_asked_something_else_are_not_decided_on(start, tmp_path, capsys):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 12

    options = {"num_train_epochs": 1, "save_steps": 10}
    part = sft(str(start / "model"), tmp_path, BOTH, gate=str(start / "gate.yaml"), **options)
    part.add_callback(Stop)
    part.train()
    (start / "other.yaml").write_text("retention: [{task: kept, max_loss: 0.4}]\ntasks: tasks.py:make\n")
    whole = sft(str(start / "model"), tmp_path, BOTH, gate=str(start / "other.yaml"), **options)
    whole.train(resume_from_checkpoint=True)
    assert [one["step"] for one in whole.decision.as_dict()["checkpoints"]] == [20]
    assert "Not decided on, since what the gate asks was not measured of them: steps 10." in capsys.readouterr().out


def test_what_a_gate_cannot_do_is_said_before_training(start, tmp_path):
    with pytest.raises(ConfigError, match="save_strategy='no' writes none"):
        SFTConfig(gate="gate.yaml", save_strategy="no")
    (start / "wrong.yaml").write_text(GATE.replace("task: kept", "task: kepd"))
    with pytest.raises(ConfigError, match="the gate names 'kepd'; did you mean 'kept'"):
        gated(start, tmp_path, BOTH, gate=str(start / "wrong.yaml"))
