import pytest

from posttrain.stats import mcnemar


def test_p_value_worked_by_hand() -> None:
    # b = 1, c = 5: 2 (C(6,0) + C(6,1)) / 64 = 14 / 64.
    first = [True] * 10 + [True] + [False] * 5 + [False] * 4
    second = [True] * 10 + [False] + [True] * 5 + [False] * 4
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second, result.n) == (1, 5, 20)
    assert result.p_value == 14 / 64
    assert result.difference == 4 / 20


def test_swapping_the_models_only_turns_the_sign() -> None:
    first, second = [True, True, False, True], [False, True, False, False]
    one, other = mcnemar(first, second), mcnemar(second, first)
    assert one.p_value == other.p_value
    assert one.difference == -other.difference == -0.5


def test_models_that_never_disagree_differ_by_nothing() -> None:
    assert mcnemar([True, False], [True, False]).p_value == 1.0


def test_balanced_disagreement_is_capped_at_one() -> None:
    assert mcnemar([True, False], [False, True]).p_value == 1.0


def test_thousands_of_disagreements_do_not_overflow() -> None:
    n = 5000
    assert 0 <= mcnemar([True] * n, [False] * n).p_value < 1e-300


def test_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 answers against 1"):
        mcnemar([True, False], [True])
    with pytest.raises(ValueError, match="no answers"):
        mcnemar([], [])
