"""Advantages of rows against their prompt and against the data, worked by hand."""

import math

import pytest

from posttrain.ops.baselines import offline_advantages

# two prompts with rewards 0, 1, 2 and 4, 4; one with a single row of 7, between the others
REWARDS, PROMPTS = [0.0, 4.0, 1.0, 7.0, 2.0, 4.0], [0, 1, 0, 2, 0, 1]


@pytest.mark.parametrize(
    ("baseline", "options", "expected"),
    [
        ("mean", {}, [-1.0, None, 0.0, None, 1.0, None]),
        ("leave_one_out", {}, [-1.5, None, 0.0, None, 1.5, None]),
        ("data_mean", {}, [-3.0, 1.0, -2.0, 4.0, -1.0, 1.0]),  # 18 / 6
        ("data_quantile", {}, [-3.0, 1.0, -2.0, 4.0, -1.0, 1.0]),  # between 2 and 4
        ("data_quantile", {"quantile": 0.9}, [-5.5, -1.5, -4.5, 1.5, -3.5, -1.5]),  # half way from 4 to 7
        ("data_quantile", {"quantile": 1.0}, [-7.0, -3.0, -6.0, 0.0, -5.0, -3.0]),
        ("data_running", {"decay": 0.5}, [0.0, 4.0, -1.0, 5.5, -2.25, 0.875]),  # levels 0 0 2 1.5 4.25 3.125
    ],
)
def test_baselines_by_hand(baseline, options, expected):
    assert offline_advantages(REWARDS, PROMPTS, baseline=baseline, scale="none", **options) == expected


def test_scales_by_hand():
    group = offline_advantages(REWARDS, PROMPTS, baseline="mean", scale="group")
    assert group == [pytest.approx(-1 / 1.0001), None, 0.0, None, pytest.approx(1 / 1.0001), None]
    deviation = math.sqrt((9 + 1 + 4 + 16 + 1 + 1) / 5) + 1e-4
    data = offline_advantages(REWARDS, PROMPTS, baseline="data_mean", scale="data")
    assert data == pytest.approx([value / deviation for value in (-3, 1, -2, 4, -1, 1)])
    own = offline_advantages(REWARDS, PROMPTS, baseline="mean", scale="data")
    assert own == [pytest.approx(-1 / deviation), None, 0.0, None, pytest.approx(1 / deviation), None]


def test_one_row_has_no_advantage_over_itself():
    assert offline_advantages([3.0], [0]) == [None]
    assert offline_advantages([3.0], [0], baseline="data_mean", scale="data") == [0.0]
