"""The baselines of KTO and BCO: which answers meet which prompts, what they come to, and what is remembered."""

from dataclasses import dataclass, replace

import pytest
import torch

from posttrain.algorithms.unpaired import unpaired_batch
from posttrain.engine.runtime import Runtime
from posttrain.sources.mismatched import MismatchedKL, mismatched, rows_of
from posttrain.sources.unpaired import Middle, UnpairedSource, Zero, with_baseline
from posttrain.types import Segment, TokenForest


def row(prompt, answer, *, good=True, spans=None):
    spans = [(len(prompt) + b, len(prompt) + e) for b, e in spans or [(0, len(answer))]]
    count = sum(e - b for b, e in spans)
    columns = {"ref_logprobs": [0.0] * count, "desirable": [float(good)] * count}
    return Segment(tokens=[*prompt, *answer], trained=spans, columns=columns)


def rows(*trees):
    return rows_of(TokenForest.from_trees(trees))


THREE = (row([1, 2], [3]), row([4], [5, 6, 7], spans=[(0, 1), (2, 3)]), row([8, 9], [10, 11]))


def test_each_prompt_gets_the_answer_of_the_row_before_it():
    found = [mismatched(rows(*THREE), i, None) for i in range(3)]
    assert [tree.tokens for tree in found] == [[1, 2, 10, 11], [4, 3], [8, 9, 5, 6, 7]]
    assert [t for b, e in found[2].trained for t in found[2].tokens[b:e]] == [5, 7]


def test_a_prompt_never_gets_an_answer_of_its_own():
    pairs = rows(row([1], [2]), row([1], [3]), row([4], [5]), row([4], [6]))
    assert [mismatched(pairs, i, None).tokens for i in range(4)] == [[1, 6], [1, 6], [4, 3], [4, 3]]
    assert mismatched(rows(row([1], [2]), row([1], [3])), 0, None) is None
    assert mismatched(rows(row([1], [2])), 0, None) is None


def test_what_is_made_is_cut_to_the_length_of_rows():
    assert mismatched(rows(*THREE), 2, 4).tokens == [8, 9, 5]  # the place 6 is not trained, and nothing follows it
    assert mismatched(rows(*THREE), 2, 2) is None


def ask(values):
    """Log-probabilities by the prompt's first token."""
    return lambda trees: [[values[tree.tokens[0]]] * sum(e - b for b, e in tree.trained) for tree in trees]


@pytest.mark.parametrize(("policy", "expected"), [(-1.0, 0.5 * 4 / 3), (-3.0, 0.0)])
def test_z0_worked_by_hand(policy, expected):
    # the answers after foreign prompts have 2, 1 and 2 tokens; the policy finds only the first likelier by 2 nats each:
    # (4 + 0 + 0) / 3, times beta; where it finds it less likely the mean is negative, and z0 is 0
    baseline = MismatchedKL(
        ask({1: policy + 1, 4: 0.0, 8: -1.0}), ask({1: -2.0, 4: 0.0, 8: -1.0}), beta=0.5, max_length=None,
        runtime=Runtime(use_cpu=True),
    )  # fmt: skip
    assert baseline(unpaired_batch(THREE)) == pytest.approx(expected)


@dataclass
class OneOf:
    """The view of one of several processes, which ask one after the other; `said` holds what each gave."""

    rank: int
    objects: list
    totals: list

    def gather_objects(self, mine):
        return self.objects

    def sum(self, values):
        self.totals.append(values)
        return values

    def gather(self, values):
        return [list(values)]


def test_z0_does_not_depend_on_how_many_processes_share_a_step():
    trees = [row([i, i + 20], list(range(30 + i, 33 + i + i % 3))) for i in range(1, 6)]
    policy, reference = ask({i: -i / 3 for i in range(1, 6)}), ask(dict.fromkeys(range(1, 6), -1.0))
    alone = MismatchedKL(policy, reference, beta=1.0, max_length=None, runtime=Runtime(use_cpu=True))
    whole = alone(unpaired_batch(trees))
    shares = [trees[rank::3] for rank in range(3)]
    objects = [rows_of(TokenForest.from_trees(share)) for share in shares]
    sums = []
    for rank, share in enumerate(shares):
        one = OneOf(rank, objects, sums)
        MismatchedKL(policy, reference, beta=1.0, max_length=None, runtime=one)(unpaired_batch(share))
    assert sum(s["rows"] for s in sums) == 5
    assert max(0.0, sum(s["ratios"] for s in sums) / 5) == pytest.approx(whole)


class Steps:
    """A source of three given batches."""

    epoch = 0.0

    def __init__(self, batches):
        self.batches, self.place, self.observed = batches, 0, []

    def next(self):
        self.place += 1
        return self.batches[self.place - 1]

    def metrics(self):
        return {}

    def observe(self, metrics):
        self.observed.append(metrics)

    def end_epoch(self):
        self.place = len(self.batches)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def source():
    batch = unpaired_batch([row([1], [2]), row([3], [4], good=False), row([5], [6])])
    return UnpairedSource(Steps([batch] * 3), Middle(), Runtime(use_cpu=True))


def test_delta_is_the_middle_between_the_kinds_of_the_steps_before():
    made = source()
    assert made.next().baseline.tolist() == [0.0, 0.0, 0.0]
    made.observe({"rewards/chosen": 0.6, "rewards/rejected": -0.2})
    assert made.next().baseline[0].item() == pytest.approx(0.2)  # (0.6 - 0.2) / 2
    made.observe({"rewards/chosen": 1.0, "rewards/rejected": -0.6})
    assert made.next().baseline[0].item() == pytest.approx(0.2)  # two good answers a step weigh no more than one bad


def test_delta_is_resumed_and_a_skipped_step_leaves_it():
    made, again = source(), source()
    made.next()
    made.observe({"rewards/chosen": 0.6, "rewards/rejected": -0.2})
    made.observe({"rewards/chosen": float("nan"), "rewards/rejected": float("nan")})
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.next().baseline, made.next().baseline)
    assert made.state_dict()["baseline"] == {"chosen": [1.2, 2.0], "rejected": [-0.2, 1.0]}


def test_an_epoch_that_is_left_is_left_by_the_rows():
    made = source()
    made.next()
    made.end_epoch()
    assert made.state_dict()["place"] == 3


def test_of_one_kind_the_middle_is_its_own_mean():
    middle = Middle()
    middle.observe({"chosen": (0.5, 4.0)})
    assert middle(unpaired_batch(THREE)) == 0.5


def test_shares_add_up_to_one_for_each_kind():
    made = source().next()
    assert made.shares.tolist() == pytest.approx([0.5, 1.0, 0.5])
    alone = replace(unpaired_batch(THREE))
    assert with_baseline(alone, Zero(), Runtime(use_cpu=True))[0].shares.tolist() == [0.0] * 3
