import pytest
import torch

from posttrain.types import Batch, Segment, TokenForest


def tree():
    inner = Segment(
        tokens=[6], children=[Segment(tokens=[7, 8], trained=[(1, 2)]), Segment(tokens=[9], trained=[(0, 1)])]
    )
    return Segment(tokens=[1, 2, 3], children=[Segment(tokens=[4, 5], trained=[(0, 2)]), inner])


def test_positions_predictors_and_targets_follow_the_path_from_the_root():
    forest = TokenForest.from_trees([tree(), Segment(tokens=[20, 21, 22], trained=[(1, 2), (2, 3)])])
    assert forest.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22]
    assert forest.positions.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 4, 0, 1, 2]
    assert forest.parents == (-1, 0, 0, 2, 2, -1)
    # the first answer's first token is predicted by the prompt's last; the single token 9 by its parent, token 6
    assert forest.predictors.tolist() == [2, 3, 6, 5, 9, 10]
    assert forest.targets.tolist() == [4, 5, 8, 9, 21, 22]
    assert forest.sequence.tolist() == [0, 0, 1, 2, 3, 3]
    assert forest.ends.tolist() == [4, 7, 8, 11]


@pytest.mark.parametrize(
    ("segment", "problem"),
    [
        (Segment(tokens=[1, 2], trained=[(0, 1)]), "first token"),
        (Segment(tokens=[1, 2]), "without a trained token"),
        (Segment(tokens=[]), "without tokens"),
        (Segment(tokens=[1, 2], trained=[(1, 2)], children=[Segment(tokens=[3], trained=[(0, 1)])]), "only leaves"),
    ],
)
def test_a_tree_that_cannot_be_trained_is_refused(segment, problem):
    with pytest.raises(ValueError, match=problem):
        TokenForest.from_trees([segment])


def test_a_cut_forest_equals_the_forest_of_the_leaves_it_keeps():
    forest = TokenForest.from_trees([tree(), Segment(tokens=[20, 21], trained=[(1, 2)])])
    inner = Segment(tokens=[6], children=[Segment(tokens=[9], trained=[(0, 1)])])
    expected = TokenForest.from_trees(
        [Segment(tokens=[1, 2, 3], children=[inner]), Segment(tokens=[20, 21], trained=[(1, 2)])]
    )
    cut = forest.select(2, 4)
    for name in ("tokens", "positions", "predictors", "targets", "sequence", "ends"):
        assert torch.equal(getattr(cut, name), getattr(expected, name)), name
    assert (cut.lengths, cut.parents, cut.leaves, cut.trained) == (
        expected.lengths, expected.parents, expected.leaves, expected.trained,
    )  # fmt: skip


def test_a_cut_keeps_atoms_whole_and_parts_within_the_budget():
    trees = [
        Segment(tokens=[1] * 4, children=[Segment(tokens=[2] * n, trained=[(0, n)]) for n in (3, 5)]) for _ in range(5)
    ]
    forest = TokenForest.from_trees(trees)
    batch = Batch(forest=forest, atom=forest.sequence // 2, units={"dpo": 5.0})
    parts = batch.cut(25)
    assert [len(part.forest.tokens) for part in parts] == [24, 24, 12]
    assert all(part.units == {"dpo": 5.0} for part in parts)
    assert [part.atom.max().item() for part in parts] == [1, 1, 0]
    assert len(batch.cut(1)) == 5  # an atom over the budget goes alone
    assert batch.cut(60) == [batch]


def test_siblings_that_are_atoms_of_their_own_are_separated_and_their_prompt_repeated():
    group = Segment(tokens=[1] * 10, children=[Segment(tokens=[2] * 5, trained=[(0, 5)]) for _ in range(4)])
    forest = TokenForest.from_trees([group])
    parts = Batch(forest=forest, atom=forest.sequence, units={"policy": 20.0}).cut(20)
    assert [len(part.forest.tokens) for part in parts] == [20, 20]
