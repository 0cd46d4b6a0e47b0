"""Which curves are drawn, what they say, and that no spike is lost."""

from __future__ import annotations

import pytest

from posttrain.report import pictures
from posttrain.report.curves import Curve, Line, curves, thinned
from posttrain.stats import Interval


def lines(count=5, **values):
    return [{**{k.replace("__", "/"): v(s) for k, v in values.items()}, "step": s} for s in range(1, count + 1)]


def titles(found):
    return [curve.title for curve in found]


def test_known_metrics_come_with_what_they_mean_and_others_with_their_name():
    found = curves(lines(loss=float, grad_norm=float, my__own=float, tokens_per_second=float), "sft")
    assert titles(found.first) == ["Loss", "Gradient norm"]
    assert titles(found.further) == ["Speed", "my/own"]
    assert all(curve.means for curve in found.first)


def test_the_loss_means_something_else_in_each_method():
    means = {kind: curves(lines(loss=float), kind).first[0].means for kind in ("sft", "dpo", "reward", "grpo")}
    assert len(set(means.values())) == 4
    assert "No measure of progress" in means["grpo"]


def test_evaluation_and_paired_metrics_share_a_picture():
    found = curves(lines(loss=float, eval_loss=lambda s: -s, logps__chosen=float, logps__rejected=lambda s: -s), "dpo")
    assert [[line.name for line in curve.lines] for curve in found.first] == [
        ["training", "evaluation"], ["chosen", "rejected"],
    ]  # fmt: skip
    assert found.first[1].lines[1].last == -5


def test_a_reward_model_s_accuracy_is_drawn_with_that_of_the_lengths():
    found = curves(lines(accuracy=float, eval_accuracy=float, eval_length_accuracy=float, min_reward=float), "reward")
    assert titles(found.first) == ["Pairs in the right order", "Right by length alone", "Scores"]
    assert [line.name for line in found.first[0].lines] == ["training", "evaluation"]


def test_the_only_reward_is_drawn_once_and_several_each():
    one = curves(lines(reward=float, rewards__right__mean=float), "grpo")
    assert titles(one.first) == ["Reward"]
    two = curves(
        lines(reward=float, rewards__right__mean=lambda s: s / 2, rewards__brief__mean=lambda s: s * s), "grpo"
    )
    assert titles(two.first) == ["Reward", "Reward: right", "Reward: brief"]


def test_drift_in_the_log_is_a_curve():
    found = curves(lines(drift__prompts__kl_forward=float, drift__prompts__length_after=float), "sft")
    assert titles(found.first) == ["KL forward on prompts"]
    assert titles(found.further) == ["length after on prompts"]


def test_what_never_changes_is_said_and_not_drawn():
    found = curves(lines(clip_ratio__low_mean=lambda s: 0.0, loss=float), "grpo")
    assert found.constant == (("clip_ratio/low_mean", 0.0),)
    assert titles(found.first) == ["Loss"]


def test_lines_without_numbers_are_passed_over():
    odd = [{"loss": None, "step": 1}, {"loss": "x", "step": 2}, {"loss": 1.0}, {"loss": float("nan"), "step": 3}]
    end = {"train_runtime": 3.0, "train_loss": 1.0, "step": 9}
    assert curves([*odd, end], "sft").first == ()
    assert curves([*odd, {"loss": 2.0, "step": 4}], "sft").first[0].lines[0].points == ((4.0, 2.0),)


def test_a_spike_survives_thinning():
    points = [(float(i), 1.0) for i in range(10_000)]
    points[4321] = (4321.0, 99.0)
    kept = thinned(points)
    assert len(kept) <= 300
    assert (4321.0, 99.0) in kept
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (10, 313, [100, 200, 300]), (-7, 100, [0, 25, 50, 75, 100]), (2, 2, [2])],
)
def test_ticks_are_round(low, high, expected):
    assert pictures.ticks(low, high) == expected


def test_a_chart_ends_at_the_last_value_and_says_so_in_words():
    curve = Curve(title="Loss", means="", lines=(Line(name="training", points=((0.0, 0.0), (5.0, 1.0), (10.0, 2.0))),))
    drawn = pictures.chart(curve, alarms=[5.0, 99.0])
    assert 'points="44.0,128.0 177.0,69.0 310.0,10.0"' in drawn
    assert '<circle class="end line-0" cx="310.0" cy="10.0"' in drawn
    assert drawn.count('class="alarm"') == 1
    assert 'aria-label="Loss. 0 at step 0, 2 at step 10, between 0 and 2."' in drawn


@pytest.mark.parametrize(
    "points", [((3.0, 1.0),), ((1.0, 5.0), (2.0, 5.0)), ((1.0, 0.0), (1.0, 0.0)), ((1.0, 1e300), (2.0, -1e300))]
)
def test_a_chart_of_one_point_or_one_value_is_drawn(points):
    drawn = pictures.chart(Curve(title="x", means="", lines=(Line(name="a", points=points),)))
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_a_dot_lies_on_its_interval_within_the_picture():
    drawn = pictures.dot(
        Interval(estimate=0.5, low=0.25, high=2.0, n=4), (0.0, 1.0), tone="gain", zero=True, text="half"
    )
    assert 'class="span" x1="26.50%" x2="97.00%"' in drawn  # 3% + a quarter of 94%; 2.0 is cut at the edge
    assert 'class="dot" cx="50.00%"' in drawn
    assert 'aria-label="half"' in drawn
