"""Weights by hand, which answers stay, and what is said and written of them."""

import json
import math

import pytest
from tiny import build_tokenizer

from posttrain.data.rewarded import reward_trees
from posttrain.errors import DataError
from posttrain.sources.weighing import NO_WEIGHT, WeighingPlan, weigh

# prompt 0 has rewards 1, 0, 0; prompt 1 has 2, 2; prompt 2 has 0.5 alone
REWARDS = [(0, 1.0), (1, 2.0), (0, 0.0), (2, 0.5), (1, 2.0), (0, 0.0)]
ROWS = [
    {"prompt_ids": [5, 6 + p], "completion_ids": [9 + i] * (1 + i % 3), "reward": r} for i, (p, r) in enumerate(REWARDS)
]


def plan(**changes):
    settings = {
        "loss_type": "awr", "baseline": "mean", "scale": "none", "quantile": 0.5, "decay": 0.99, "temperature": 1.0,
        "max_weight": 20.0, "threshold": None, "normalize": False,
    }  # fmt: skip
    return WeighingPlan(**{**settings, **changes})


@pytest.fixture(scope="module")
def rewarded():
    return reward_trees(ROWS, build_tokenizer(), max_length=None)


def weights(made):
    return [row.weight for row in made.rows]


BEST, REST = math.exp(2 / 3), math.exp(-1 / 3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [BEST, 0, REST, 0, 0, REST]),
        ({"temperature": 0.5}, [BEST**2, 0, REST**2, 0, 0, REST**2]),
        ({"max_weight": 1.5}, [1.5, 0, REST, 0, 0, REST]),
        ({"normalize": True}, [3 * w / (BEST + 2 * REST) for w in (BEST, 0, REST, 0, 0, REST)]),
        ({"baseline": "data_mean"}, [math.exp(r - 5.5 / 6) for _, r in REWARDS]),
        ({"loss_type": "reinforce"}, [2 / 3, 0, -1 / 3, 0, 0, -1 / 3]),
        ({"loss_type": "topr", "baseline": "leave_one_out"}, [1, 0, -0.5, 0, 0, -0.5]),
        ({"loss_type": "raft"}, [1, 0, 0, 0, 0, 0]),
        ({"loss_type": "raft", "threshold": 0.5}, [1, 1, 0, 1, 1, 0]),
    ],
)
def test_weights_by_hand(rewarded, changes, expected):
    assert weights(weigh(rewarded, plan(**changes))) == pytest.approx(expected)


def test_answers_without_weight_are_left_out_and_counted(rewarded):
    made = weigh(rewarded, plan())
    assert len(made.trees) == 1
    leaves = list(made.trees[0].leaves())
    assert [leaf.tokens for leaf in leaves] == [[9], [11] * 3, [14] * 3]
    assert [leaf.columns["weights"] for leaf in leaves] == [
        pytest.approx([w] * n) for w, n in ((BEST, 1), (REST, 3), (REST, 3))
    ]
    assert leaves[1].columns["advantages"] == pytest.approx([-1 / 3] * 3)
    assert made.leaf_rows == [0, 2, 5]
    report = made.report
    assert report.dropped[NO_WEIGHT].count == 3
    assert report.dropped[NO_WEIGHT].first == tuple(f"row {i} of train_dataset" for i in (1, 3, 4))
    assert report.rows_read == report.rows_kept + 3
    assert (report.tokens, report.trained_tokens) == (9, 7)


def test_what_is_anchored_or_measured_stays(rewarded):
    made = weigh(rewarded, plan(keep_all=True))
    assert made.leaf_rows == [0, 2, 5, 1, 4, 3]
    assert [leaf.columns["weights"][0] for tree in made.trees for leaf in tree.leaves()] == pytest.approx(
        [BEST, REST, REST, 0, 0, 0]
    )
    assert made.report.rows_kept == 6
    assert NO_WEIGHT not in made.report.dropped


def test_prompts_without_signal_are_counted_and_said(rewarded):
    said = " ".join(weigh(rewarded, plan()).report.notes)
    assert "2 of 3 prompts have the same reward on all of their rows (3)" in said
    assert "same reward" not in " ".join(weigh(rewarded, plan(baseline="data_mean")).report.notes)


def test_the_ends_of_the_weights_are_said_and_few_that_carry_all():
    rows = [{"prompt_ids": [5], "completion_ids": [9, 10 + i], "reward": float(i == 7)} for i in range(60)]
    made = weigh(reward_trees(rows, build_tokenizer(), max_length=None), plan(temperature=0.1, max_weight=1e6))
    (said,) = [note for note in made.report.notes if note.startswith("Weights (awr)")]
    assert "(row 7 of train_dataset, reward 1); they count as much as 1 equal ones" in said
    assert "raise temperature or lower max_weight" in said
    made = weigh(reward_trees(rows, build_tokenizer(), max_length=None), plan(loss_type="raft"))
    assert "Weights (raft): 1 answers, 1 each. All are in weights.jsonl." in made.report.notes


def test_the_control_deals_the_same_rewards_out_anew(rewarded):
    made, again, other = (weigh(rewarded, plan(shuffle_seed=seed, keep_all=True)) for seed in (1, 1, 2))
    rewards = [row.reward for row in made.rows]
    assert sorted(rewards) == sorted(r for _, r in REWARDS)
    assert rewards != [r for _, r in REWARDS]
    assert rewards == [row.reward for row in again.rows] != [row.reward for row in other.rows]
    assert any(note.startswith("Control arm") for note in made.report.notes)


def test_every_answer_is_written_with_its_weight(rewarded, tmp_path):
    weigh(rewarded, plan()).write(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "weights.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(6))
    assert lines[0] == {
        "row": 0, "place": "row 0 of train_dataset", "prompt": 0, "reward": 1.0,
        "advantage": pytest.approx(2 / 3), "weight": pytest.approx(BEST),
    }  # fmt: skip
    assert lines[3]["advantage"] is None


def test_the_content_is_that_of_the_weights(rewarded):
    hashes = [weigh(rewarded, plan(**changes)).content() for changes in ({}, {}, {"temperature": 0.9})]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (ROWS[3:4], {}, r"all 1 rewards are 0\.5.*nothing to learn"),
        (
            [ROWS[1], ROWS[3]],
            {},
            r"none of its 2 prompts has answers with different rewards \(1\.0 answers.*'data_mean'",
        ),
        ([ROWS[1], ROWS[3]], {"loss_type": "raft"}, r"Write reward_threshold="),
        (ROWS, {"loss_type": "raft", "threshold": 3.0}, r"no reward reaches reward_threshold=3; they go from 0 to 2"),
    ],
)
def test_data_from_which_nothing_can_be_learned_are_refused(rows, changes, message):
    with pytest.raises(DataError, match=message):
        weigh(reward_trees(rows, build_tokenizer(), max_length=None), plan(**changes))
    with pytest.raises(DataError, match=message):  # an anchor alone is nothing to learn either
        weigh(reward_trees(rows, build_tokenizer(), max_length=None), plan(keep_all=True, **changes))
    measured = plan(keep_all=True, trained=False, **changes)
    assert weigh(reward_trees(rows, build_tokenizer(), max_length=None), measured).trees
