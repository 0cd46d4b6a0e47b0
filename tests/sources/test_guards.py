"""Alarms of online training: each sounds when its sign is there, not before, and not in every log line."""

from itertools import pairwise

import pytest

from posttrain.sources.guards import ALARMS, OnlineGuards

QUIET = {
    "reward": 0.5,
    "entropy": 1.0,
    "completions/mean_length": 20.0,
    "completions/clipped_ratio": 0.1,
    "completions/repetition": 0.05,
    "frac_reward_zero_std": 0.5,
    "rewards/unjudged": 0.0,
    "kl": 0.01,
}


def history(*, calm=6, wrong=6, **signs):
    entries = [QUIET] * calm + [QUIET | signs] * wrong
    return [entry | {"step": step} for step, entry in enumerate(entries, start=1)]


def names(entries, **options):
    return [alarm.name for alarm in OnlineGuards(**options)(entries)]


def test_a_healthy_run_raises_nothing():
    for length in range(13):
        assert names(history(calm=length, wrong=0), max_kl=0.1) == []


@pytest.mark.parametrize(
    ("name", "signs", "words"),
    [
        ("entropy", {"entropy": 0.1}, "from 1.00 to 0.10 nats"),
        ("length", {"completions/mean_length": 40.0}, "from 20 to 40 tokens while the reward did not"),
        ("kl", {"kl": 0.2}, "over max_kl=0.1"),
        ("signal", {"frac_reward_zero_std": 1.0}, "nothing was learned"),
        ("truncation", {"completions/clipped_ratio": 0.9}, "90% of the completions"),
        ("repetition", {"completions/repetition": 0.6}, "60% of what is written"),
        ("unjudged", {"rewards/unjudged": 0.3}, "30% of the completions"),
    ],
)
def test_each_sign_raises_its_alarm_and_no_other(name, signs, words):
    alarms = OnlineGuards(max_kl=0.1)(history(**signs))
    assert [alarm.name for alarm in alarms] == [name]
    assert words in alarms[0].text
    assert set(ALARMS) >= {name}


def test_longer_answers_that_are_better_raise_nothing():
    assert names(history(reward=0.9, **{"completions/mean_length": 40.0})) == []


def test_no_kl_budget_no_kl_alarm():
    assert names(history(kl=5.0)) == []


def test_an_alarm_is_not_said_in_every_line():
    entries = history(entropy=0.1)
    said = [*entries, {"alarm": "entropy", "text": "...", "step": 12}]
    assert names(said) == []
    later = said + [QUIET | {"entropy": 0.1, "step": step} for step in range(13, 30)]
    assert names(later) == ["entropy"]


def test_one_odd_rollout_raises_nothing():
    assert names(history(wrong=1, **{"frac_reward_zero_std": 1.0, "completions/clipped_ratio": 1.0})) == []


def steps(rewards, **signs):
    return [
        QUIET | {"step": n, "reward": reward, "grad_norm": 1.0, "learning_rate": 1e-4, "loss": 0.0} | signs
        for n, reward in enumerate(rewards, start=1)
    ]


def test_a_reward_that_is_lost_again_is_instability_though_the_loss_shows_nothing():
    rising = [0.1, 0.3, 0.5, 0.7, 0.8, 0.8, 0.8]
    assert names(steps(rising)) == []
    (alarm,) = OnlineGuards()(steps([*rising, 0.4, 0.2, 0.1, 0.1]))
    assert alarm.name == "instability"
    assert "the reward is 0.133 and has been 0.8" in alarm.text


def test_a_retention_score_that_falls_while_the_reward_rises_is_over_optimisation():
    history = steps([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    peak = {"step": 2, "retention/battery": 0.9, "retention/battery/n": 400.0}
    fallen = {"step": 6, "retention/battery": 0.7, "retention/battery/n": 400.0}
    assert names([*history[:2], peak, *history[2:]]) == []
    (alarm,) = OnlineGuards()([*history[:2], peak, *history[2:], fallen])
    assert alarm.name == "over_optimisation"
    assert "battery fell from 0.90 at step 2 to 0.70, while the training reward rose" in alarm.text


def test_answers_that_break_are_heard_of_online_too():
    history = steps([0.1] * 6)
    start = {"step": 0, "generation/empty": 0.0}
    assert names([start, *history, {"step": 6, "generation/empty": 0.0}]) == []
    assert names([start, *history, {"step": 6, "generation/empty": 0.5}]) == ["broken_text"]


def rewards(model, check):
    """A run in which two rewards go through these values, six entries from one to the next."""

    def course(points):
        legs = pairwise(points)
        return [points[0], *(before + (after - before) * i / 6 for before, after in legs for i in range(1, 7))]

    return [
        QUIET
        | {
            "step": i, "rewards/reward_model/mean": liked, "rewards/reward_model/std": 2.0,
            "rewards/final_answer/mean": right, "rewards/final_answer/std": 0.5,
        }
        for i, (liked, right) in enumerate(zip(course(model), course(check)))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "check", "alarms"),
    [
        ((0.0, 4.0, 4.0), (0.3, 0.3, 0.3), ["reward_hacking"]),
        ((0.0, 4.0, 4.0), (0.3, 0.1, 0.1), ["reward_hacking"]),  # and worse
        ((0.0, 4.0, 4.2), (0.3, 0.7, 0.4), ["reward_hacking"]),  # better at first, and then not
        ((0.0, 4.0, 4.0), (0.3, 0.8, 0.8), []),  # what it likes is right
        ((0.0, 4.0, 4.0), (0.3, 0.7, 0.68), []),  # no fall to speak of
        ((0.0, 4.0, 2.0), (0.3, 0.7, 0.4), []),  # both lose: another alarm's matter
        ((0.0, 0.5, 0.5), (0.3, 0.3, 0.3), []),  # not enough of a rise to speak of
        ((0.0, -4.0, -4.0), (0.3, 0.3, 0.3), []),  # nothing is fooled
    ],
)
def test_a_learned_reward_that_rises_alone_is_fooled(model, check, alarms):
    named = {"learned": ["reward_model"], "checked": ["final_answer"]}
    found = OnlineGuards(**named)(rewards(model, check))
    assert [alarm.name for alarm in found] == alarms
    assert all("'reward_model' went from" in alarm.text and "'final_answer'" in alarm.text for alarm in found)
    assert names(rewards(model, check)) == []  # nothing is learned, nothing is checked
    assert names(rewards(model, check)[:5], **named) == []
