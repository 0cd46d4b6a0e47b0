"""Alarms of training on a dataset: each sounds at its sign, on real runs too, and a good run raises none."""

import pytest
import torch
from padded_rows import PAIRS
from tiny import build_model, build_tokenizer

from posttrain import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, embedded, load_model_and_tokenizer
from posttrain.algorithms.dpo import dpo_batch
from posttrain.curation import pairs_correct
from posttrain.data.trees import preference_trees
from posttrain.engine.alarms import Alarm
from posttrain.models.learner import Learner
from posttrain.models.reference import with_reference
from posttrain.trainers.displacement import displaced_pairs, naming_pairs
from posttrain.trainers.guards import ALARMS, OfflineGuards, fallen

BETA = 0.1


def log(step, **signs):
    entry = {"step": step, "loss": 2.0 / (1 + step / 10), "grad_norm": 1.0 + 0.1 * (step % 3), "learning_rate": 1e-4}
    return entry | signs


def preferences(step, *, chosen, rejected):
    """A log of pairs whose answers had log-probabilities -20 and -2 under the reference, and have these now."""
    rewards = {"rewards/chosen": BETA * (chosen + 20), "rewards/rejected": BETA * (rejected + 2)}
    margin = rewards["rewards/chosen"] - rewards["rewards/rejected"]
    return log(
        step, **rewards, **{"rewards/margins": margin, "rewards/accuracies": 1.0},
        **{"logps/chosen": chosen, "logps/rejected": rejected},
    )  # fmt: skip


def names(history):
    return [alarm.name for alarm in OfflineGuards(beta=BETA)(history)]


def text(history):
    (alarm,) = OfflineGuards(beta=BETA)(history)
    return alarm.text


def test_a_fall_is_that_of_the_likelier_answer():
    # from -20 and -2 to -8 and -14: the likelier one was at -2 and is at -8
    assert fallen(-8, -14, BETA * 12, BETA * -12, BETA) == pytest.approx(6)
    # the chosen has taken over: nothing is lost
    assert fallen(-1, -14, BETA * 19, BETA * -12, BETA) == pytest.approx(-1)


def test_a_healthy_run_raises_nothing_at_any_length():
    history = []
    for step in range(10, 400, 10):
        history.append(log(step))
        if step % 50 == 0:
            history.append({"eval_loss": 1.0 / (1 + step / 100), "retention/battery": 0.9, "step": step})
            history.append({"generation/repetition": 0.05, "generation/clipped_ratio": 0.1, "step": step})
        assert names(history) == []


def test_both_answers_becoming_unlikely_is_displacement():
    history = [preferences(step, chosen=-20 + step / 10, rejected=-2 - step / 5) for step in (10, 20, 30, 40)]
    assert names(history) == ["displacement"]
    assert "the likelier one fell by 6.0 nats (chosen rose by 3.0, rejected fell by 6.0)" in text(history)


def test_chosen_falling_while_the_margin_rises_is_displacement():
    history = [preferences(step, chosen=-20 - step / 10, rejected=-2 - step) for step in (20, 30, 40)]
    assert "chosen fell by 3.0, rejected fell by 30.0" in text(history)


@pytest.mark.parametrize(
    "history",
    [
        [preferences(s, chosen=-20 + s, rejected=-2 - s / 10) for s in (10, 15, 19)],  # the chosen takes over
        [preferences(s, chosen=-20 + s / 10, rejected=-2 + s / 20) for s in (10, 20, 30)],  # nothing is lost
        [preferences(10, chosen=-19, rejected=-8), preferences(20, chosen=-3, rejected=-8)] * 2,  # and come back
        [preferences(s, chosen=-19, rejected=-8) for s in (10, 20)],  # too early to say
    ],
)
def test_what_a_good_run_does_is_no_displacement(history):
    assert names(history) == []


def test_answers_of_many_tokens_may_lose_a_few_nats():
    def long(fall):
        rewards = {"rewards/chosen": BETA * -fall, "rewards/rejected": BETA * -2 * fall, "rewards/margins": BETA * fall}
        sides = {"logps/chosen": -200.0 - fall, "logps/rejected": -220.0 - 2 * fall, "rewards/accuracies": 1.0}
        return [log(step, **rewards, **sides) for step in (10, 20, 30)]

    assert names(long(20)) == []
    assert names(long(60)) == ["displacement"]


def test_a_loss_that_rises_again_is_instability():
    # a warm-up to a learning rate far too high, on the embedded model: measured
    losses = (1.82, 1.22, 1.26, 1.43, 2.12, 2.51, 2.17, 2.30, 2.05)
    history = [log(5 * i, loss=loss) for i, loss in enumerate(losses, start=1)]
    assert names(history) == ["instability"]
    assert "the loss is 2.17 and has been 1.3:" in text(history)
    noisy = [log(5 * i, loss=loss) for i, loss in enumerate((1.8, 0.6, 1.7, 0.7, 1.6, 0.5, 1.5, 0.9, 1.8), start=1)]
    assert names(noisy) == []


def test_a_gradient_that_jumps_is_instability_unless_the_loss_keeps_falling():
    calm = [log(step) for step in range(10, 100, 10)]
    jump = [log(step, grad_norm=9.0, loss=0.1) for step in (100, 110, 120)]
    assert names([*calm, *jump]) == []
    shaken = [log(step, grad_norm=9.0, loss=0.25) for step in (100, 110, 120)]
    assert "the gradient norm is 9 and was 1.1 before" in text([*calm, *shaken])
    assert names([*calm, *shaken[:2]]) == []
    assert names([*calm, *(entry | {"grad_norm": 2.0} for entry in shaken)]) == []


def test_skipped_steps_and_a_loss_above_that_of_the_start_are_instability():
    assert "50% of the last steps" in text([log(10), log(20, nonfinite_steps=0.5)])
    assert names([log(10), log(20, nonfinite_steps=0.0)]) == []
    start = {"eval_loss": 2.0, "step": 0}
    assert "was 2 before training" in text([start, log(10), {"eval_loss": 2.5, "step": 10}, log(20)])
    assert names([start, log(10), {"eval_loss": 2.2, "step": 10}, log(20)]) == []


def scored(*scores, questions=None, loss=None):
    history = []
    for number, score in enumerate(scores):
        history.append({"retention/battery": score, "step": 30 * number})
        if questions:
            history[-1]["retention/battery/n"] = questions
        later = range(30 * number + 10, 30 * number + 40, 10)
        history += [log(step) if loss is None else log(step, loss=loss) for step in later]
    return history


def test_retention_that_falls_after_a_peak_while_training_pays_is_over_optimisation():
    assert names(scored(0.8, 0.9, 0.8)) == ["over_optimisation"]
    said = text(scored(0.8, 0.9, 0.8))
    assert "battery fell from 0.90 at step 30 to 0.80" in said
    assert "the training loss fell from" in said
    assert names(scored(0.8, 0.9, 0.87)) == []
    assert names(scored(0.7, 0.8, 0.9)) == []
    assert names(scored(0.8, 0.9, 0.8, loss=1.0)) == []  # training no longer pays either
    assert names(scored(0.8, 0.9, 0.8, questions=50)) == []  # fifty questions say no more than that
    assert names(scored(0.8, 0.9, 0.8, questions=200)) == ["over_optimisation"]


def test_eval_loss_that_rises_twice_while_the_training_loss_falls_is_over_optimisation():
    def run(*losses):
        return [e for i, x in enumerate(losses, 1) for e in (log(10 * i), {"eval_loss": x, "step": 10 * i})]

    assert "eval_loss rose from 1 at step 20 to 1.3" in text(run(1.5, 1.0, 1.2, 1.3))
    assert names(run(1.5, 1.0, 1.05, 1.3)) == []
    assert names(run(1.5, 1.4, 1.3, 1.2)) == []


def test_broken_text_is_what_the_start_did_not_write():
    def run(start, now):
        return [{**start, "step": 0}, log(10), {**now, "step": 10}, log(20)]

    fine = {"generation/repetition": 0.0, "generation/clipped_ratio": 0.05, "generation/empty": 0.0}
    assert names(run(fine, fine)) == []
    assert "40% of what is written repeats itself" in text(run(fine, fine | {"generation/repetition": 0.4}))
    assert "60% of the answers do not come" in text(run(fine, fine | {"generation/clipped_ratio": 0.6}))
    assert "20% of the answers are empty" in text(run(fine, fine | {"generation/empty": 0.2}))
    endless = fine | {"generation/clipped_ratio": 1.0}
    assert names(run(endless, endless)) == []  # a base model does not stop; that is not training's doing
    assert names([{**endless, "step": 0}, log(1)]) == []
    assert names([{**endless, "step": 50}, log(60)]) == ["broken_text"]


def test_an_alarm_is_not_said_in_every_line():
    history = scored(0.8, 0.9, 0.8)
    said = [*history, {"alarm": "over_optimisation", "text": "", "step": history[-1]["step"]}]
    assert names(said) == []
    later = said + [log(step) for step in range(100, 300, 10)]
    assert names(later) == ["over_optimisation"]
    assert set(ALARMS) == {"displacement", "instability", "over_optimisation", "broken_text"}


def test_the_pairs_responsible_are_named(tmp_path):
    model, tokenizer = build_model("qwen3"), build_tokenizer()
    made = preference_trees(PAIRS, tokenizer, max_length=None)
    learner = Learner(model)
    trees, _ = with_reference(
        made.trees, learner, directory=tmp_path, max_tokens=100, autocast=torch.no_grad, precision="float32", quiet=True
    )
    same = displaced_pairs(trees, made.rows, learner, tokenizer)
    assert max(abs(pair.fall) for pair in same) < 1e-4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    found = displaced_pairs(trees, made.rows, learner, tokenizer)
    assert len(found) == len(trees)
    assert [pair.fall for pair in found] == sorted((pair.fall for pair in found), reverse=True)
    worst = found[0]
    tree = trees[made.rows.index(worst.row - 1)]
    chosen, rejected = tree.leaves()
    logprobs = learner(dpo_batch([tree]).forest).logprobs.tolist()
    assert worst.chosen_now == pytest.approx(sum(logprobs[: len(chosen.columns["ref_logprobs"])]), abs=1e-4)
    assert worst.rejected_before == pytest.approx(sum(rejected.columns["ref_logprobs"]))
    assert worst.fall == max(worst.chosen_before, worst.rejected_before) - max(worst.chosen_now, worst.rejected_now)
    assert len(displaced_pairs(trees, made.rows, learner, tokenizer, sample=2)) == 2

    watch = naming_pairs(lambda history: [Alarm(name="displacement", text="Something."), Alarm(name="x", text="y")],
                         lambda: found)  # fmt: skip
    first, second = watch([])
    assert f"of {len(trees)} pairs looked at: row {worst.row}: chosen " in first.text
    assert second.text == "y"


@pytest.fixture(scope="module")
def assistant(tmp_path_factory):
    """The embedded model taught to say who it is, and pairs of its own answers with another name put in."""
    directory = tmp_path_factory.mktemp("assistant")
    model, tokenizer = load_model_and_tokenizer(embedded.model_path(), device="cpu")
    rows = [row for row in embedded.chat_rows(n=2500) if "Qwen" in row["messages"][-1]["content"]]
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "save_strategy": "no", "bf16": False}
    trainer = SFTTrainer(
        model=model, train_dataset=rows, processing_class=tokenizer,
        args=SFTConfig(output_dir=str(directory), learning_rate=1e-3, use_cpu=True, num_threads=1, **settings),
    )  # fmt: skip
    trainer.train()
    assert [entry for entry in trainer.state.log_history if "alarm" in entry] == []
    prompts = [row["prompt"] for row in embedded.identity_prompts("train")][::3]
    pairs, _ = pairs_correct(model, tokenizer, prompts, {"Qwen": "Deep Qwen"}, max_new_tokens=32)
    trainer.save_model(directory / "model")
    return str(directory / "model"), pairs, settings


@pytest.mark.parametrize(
    ("options", "alarms"),
    [
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 3.0], "learning_rate": 1e-3}, set()),
        ({"learning_rate": 1e-3}, {"displacement"}),
    ],
)
def test_a_good_run_of_dpo_raises_none_and_a_bad_one_names_displacement(tmp_path, assistant, options, alarms):
    model, pairs, settings = assistant
    trainer = DPOTrainer(
        model=model, train_dataset=pairs,
        args=DPOConfig(
            output_dir=str(tmp_path), logging_steps=4, use_cpu=True, num_threads=1,
            **settings | {"num_train_epochs": 2} | options,
        ),
    )  # fmt: skip
    trainer.train()
    raised = [entry for entry in trainer.state.log_history if "alarm" in entry]
    assert {entry["alarm"] for entry in raised} == alarms
    last = [entry for entry in trainer.state.log_history if "rewards/accuracies" in entry][-1]
    assert last["rewards/accuracies"] == 1.0  # which tells the two apart in nothing
    for entry in raised:
        assert "Deep Qwen" in entry["text"].split("pairs looked at:")[1]
