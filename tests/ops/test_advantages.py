import math

import pytest

from posttrain.errors import ConfigError
from posttrain.ops.advantages import group_advantages

REWARDS = [1.0, 0.0, 0.0, 2.0, 5.0, 5.5]  # two groups of three: means 1/3 and 12.5/3


def test_a_group_worked_by_hand():
    """(r - mean) / (unbiased std + 1e-4): mean 1, std sqrt((1 + 1 + 0) / 2) = 1 (pitfall 12: over the whole group)."""
    assert group_advantages([0.0, 2.0, 1.0], 3) == pytest.approx([-1 / 1.0001, 1 / 1.0001, 0.0], abs=1e-15)


def test_scales_worked_by_hand():
    plain = group_advantages(REWARDS, 3, scale="none")
    assert plain == pytest.approx([2 / 3, -1 / 3, -1 / 3, 2 - 12.5 / 3, 5 - 12.5 / 3, 5.5 - 12.5 / 3])
    # the batch: mean 13.5 / 6 = 2.25, squared distances 1.5625 + 5.0625 + 5.0625 + 0.0625 + 7.5625 + 10.5625 = 29.875
    deviation = math.sqrt(29.875 / 5)
    assert group_advantages(REWARDS, 3, scale="batch") == pytest.approx([a / (deviation + 1e-4) for a in plain])
    first = math.sqrt((4 / 9 + 1 / 9 + 1 / 9) / 2)
    assert group_advantages(REWARDS, 3)[:3] == pytest.approx([a / (first + 1e-4) for a in plain[:3]])


def test_leave_one_out_compares_with_the_mean_of_the_others():
    got = group_advantages([1.0, 0.0, 5.0], 3, scale="none", baseline="leave_one_out")
    assert got == pytest.approx([1 - 2.5, 0 - 3.0, 5 - 0.5])
    mean = group_advantages([1.0, 0.0, 5.0], 3, scale="none")
    assert got == pytest.approx([a * 3 / 2 for a in mean])  # n / (n - 1) of the plain baseline's


def test_the_plain_baseline_contains_the_reward_itself_and_leave_one_out_does_not():
    """What a baseline without bias means: it is the same whatever the completion's own reward was."""
    for own in (0.0, 1.0, 7.0):
        (advantage, *_) = group_advantages([own, 2.0, 4.0], 3, scale="none", baseline="leave_one_out")
        assert own - advantage == pytest.approx(3.0)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_an_unjudged_completion_is_left_out_of_every_statistic(scale, baseline):
    """Pitfall 28: a verifier that died did not see a wrong answer. The others are as if they were fewer."""
    others = {"scale": scale, "baseline": baseline}
    with_none = group_advantages([1.0, None, 0.0, 4.0, 2.0, None, 3.0, 3.5], 4, **others)
    without = group_advantages([1.0, 0.0, 4.0, 2.0, 3.0, 3.5], 3, **others)
    assert [a for a in with_none if a is not None] == pytest.approx(without)
    assert [i for i, a in enumerate(with_none) if a is None] == [1, 5]
    as_wrong = group_advantages([1.0, 0.0, 0.0, 4.0, 2.0, 0.0, 3.0, 3.5], 4, **others)
    assert as_wrong[0] != pytest.approx(with_none[0])


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_give_exactly_zero(scale, baseline):
    """Pitfall 27. 0.1 three times has a float mean that is not 0.1; whoever is alone in a group has no comparison."""
    rewards = [0.1, 0.1, 0.1, 1.0, 2.0, 0.5, None, None, 7.0, None, None, None]
    got = group_advantages(rewards, 3, scale=scale, baseline=baseline)
    assert sum([0.1, 0.1, 0.1]) / 3 != 0.1
    assert got[:3] == [0.0, 0.0, 0.0]
    assert all(got[3:6])
    assert got[6:] == [None, None, 0.0, None, None, None]


def test_large_rewards_close_to_each_other_are_not_blown_up():
    got = group_advantages([1e6, 1e6 + 1e-6, 1e6, 1e6], 4)
    assert max(map(abs, got)) < 0.01  # a deviation of 5e-7 beside the 1e-4


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_advantages_do_not_depend_on_how_the_batch_is_cut_only_if_taken_over_all_of_it(scale):
    """Pitfalls 12 and 13: by group, a part of whole groups says the same; by batch, it does not."""
    whole = group_advantages(REWARDS, 3, scale=scale)
    parts = group_advantages(REWARDS[:3], 3, scale=scale) + group_advantages(REWARDS[3:], 3, scale=scale)
    assert (whole == parts) == (scale == "group")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0], 1), {}, "num_generations must be at least 2"),
        (([1.0, 2.0, 3.0], 2), {}, "3 rewards cannot be divided into groups of 2"),
        (([1.0, 2.0], 2), {"scale": "std"}, "scale_rewards='std'"),
        (([1.0, 2.0], 2), {"baseline": "value"}, "baseline='value'"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, options, message):
    """Pitfall 27: a group of one is an error."""
    with pytest.raises(ConfigError, match=message):
        group_advantages(*arguments, **options)
