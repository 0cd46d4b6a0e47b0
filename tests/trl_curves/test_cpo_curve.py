"""Twenty steps of CPO, SimPO and ORPO give TRL's loss curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from curve_rows import make_rows

# TRL averages the likelihood over the tokens of a micro-batch, not of the step: one micro-batch a step agrees
ONE_PASS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "sigmoid", "label_smoothing": 0.1},
        pytest.param({"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "alphapo", "alpha": 0.2, "beta": 2.0}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "hinge", "cpo_alpha": 0.5}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "ipo"}, marks=pytest.mark.slow),
    ],
    ids=["cpo", "simpo", "alphapo", "hinge", "ipo"],
)
def test_loss_types(
    settings: dict[str, Any],
    both_curves: Callable[..., Any],
    assert_same_curve: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    assert_same_curve(*both_curves("cpo", make_rows("preference"), settings | ONE_PASS))


@pytest.mark.filterwarnings("ignore::Warning")
def test_orpo(
    both_curves: Callable[..., Any], assert_same_curve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On prompts of one token, of which nothing is predicted: TRL takes the likelihood of the prompt too."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    rows = [row | {"prompt": "?"} for row in make_rows("preference")]
    assert_same_curve(*both_curves("orpo", rows, {"beta": 0.3} | ONE_PASS))
