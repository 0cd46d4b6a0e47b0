"""Draws follow the distribution they should, and restrictions mean what transformers means by them."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from posttrain.sampling import drawing
from posttrain.sampling.drawing import draw, inverse, likeliest
from posttrain.sampling.randomness import streams, uniforms
from posttrain.types import SamplingParams


def logits(rows: int, size: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(rows + size)) * spread


def evenly(count: int) -> torch.Tensor:
    """Numbers evenly over [0, 1), so that a draw with them shows the whole distribution."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize("size", [5, 128, 129, 1000, 5000])
def test_a_draw_is_the_inverse_of_the_cumulative_sum(size):
    weights = logits(1, size).softmax(dim=1)
    randoms = evenly(4001)
    found = inverse(weights.expand(len(randoms), -1), randoms)
    cumulative = weights[0].double().cumsum(0)
    expected = torch.searchsorted(cumulative, randoms * cumulative[-1], right=True)
    differs = found != expected
    # at most where a random number falls on a border to rounding
    assert differs.sum() <= 4
    assert ((cumulative[expected[differs]] / cumulative[-1] - randoms[differs]).abs() < 1e-5).all()


def test_what_has_no_weight_is_never_drawn():
    weights = torch.zeros(6, 300)
    weights[:, [7, 131, 290]] = torch.tensor([0.25, 0.5, 0.25])
    randoms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    assert inverse(weights, randoms).tolist() == [7, 7, 131, 131, 290, 290]


def test_many_draws_follow_the_distribution():
    row = logits(1, 12, spread=1.5)
    n = 20_000
    randoms = torch.from_numpy(uniforms(streams(3, range(n), [1] * n), np.full(n, 5)))
    tokens, logprobs = draw(row.expand(n, -1), SamplingParams(temperature=1.3), randoms)
    expected = (row[0].double() / 1.3).softmax(0)
    counts = torch.bincount(tokens, minlength=12)
    assert chisquare(counts.numpy(), (expected * n).numpy()).pvalue > 0.01
    torch.testing.assert_close(logprobs, expected.log()[tokens].float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        (SamplingParams(top_k=7), [TopKLogitsWarper(7)]),
        (SamplingParams(top_p=0.8), [TopPLogitsWarper(0.8)]),
        (SamplingParams(top_p=0.001), [TopPLogitsWarper(0.001)]),
        (SamplingParams(min_p=0.1), [MinPLogitsWarper(0.1)]),
        (
            SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05),
            [TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)],
        ),
        (SamplingParams(temperature=2.0, top_p=0.97), [TemperatureLogitsWarper(2.0), TopPLogitsWarper(0.97)]),
    ],
)
@pytest.mark.parametrize("size", [50, 1500])
def test_restrictions_are_those_of_transformers(params, warpers, size, monkeypatch):
    monkeypatch.setattr(drawing, "_NUCLEUS", 16)  # so that some rows need all their tokens sorted
    rows = logits(2, size)
    randoms = evenly(2000)
    for row in rows:
        wanted = row[None].clone()
        for warper in warpers:
            wanted = warper(None, wanted)
        allowed = torch.isfinite(wanted[0])
        tokens, logprobs = draw(row.expand(len(randoms), -1), params, randoms)
        assert allowed[tokens].all()
        shares = torch.bincount(tokens, minlength=size) / len(randoms)
        assert (shares - wanted[0].softmax(0)).abs().max() < 2e-3
        # restrictions are not in the log-probabilities
        own = (row / params.temperature).log_softmax(0)
        torch.testing.assert_close(logprobs, own[tokens], atol=1e-5, rtol=1e-5)


def test_ties_with_the_last_one_allowed_are_allowed():
    row = torch.tensor([[1.0, 3.0, 1.0, 0.0]]).expand(400, -1)
    tokens, _ = draw(row, SamplingParams(top_k=2), evenly(400))
    assert set(tokens.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_repetition_penalty_is_that_of_transformers(temperature):
    rows = logits(3, 40)
    history = torch.tensor([[1, 5, 9, 1], [2, 2, 2, 2], [39, 0, 7, 7]])
    params = SamplingParams(temperature=temperature, repetition_penalty=1.7)
    penalised = RepetitionPenaltyLogitsProcessor(1.7)(history, rows.clone())
    if temperature == 0:
        tokens, logprobs = draw(rows, params, None, history)
        assert tokens.tolist() == penalised.argmax(1).tolist()
        torch.testing.assert_close(logprobs, rows.log_softmax(1).gather(1, tokens[:, None])[:, 0])
        return
    expected = (penalised / temperature).softmax(1)
    for i in range(3):
        tokens, logprobs = draw(
            rows[i].expand(2000, -1), params, evenly(2000), history[i].expand(2000, -1)
        )  # fmt: skip
        assert (torch.bincount(tokens, minlength=40) / 2000 - expected[i]).abs().max() < 2e-3
        own = (rows[i] / temperature).log_softmax(0)
        torch.testing.assert_close(logprobs, own[tokens], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 128, 1000])
def test_the_likeliest_is_argmax_and_the_first_of_equals(size):
    rows = logits(50, size)
    assert likeliest(rows).tolist() == rows.argmax(1).tolist()
    rows[:, -1] = rows[:, size // 2] = 99.0
    assert likeliest(rows).tolist() == [size // 2] * 50


def test_rows_may_come_in_any_number(monkeypatch):
    rows, randoms = logits(9, 300), evenly(9)
    whole = draw(rows, SamplingParams(), randoms)
    monkeypatch.setattr(drawing, "PASS_BYTES", 2 * 4 * 300)
    parts = draw(rows, SamplingParams(), randoms)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    half = draw(rows[3:4].bfloat16(), SamplingParams(), randoms[3:4])
    expected = rows[3].bfloat16().float().log_softmax(0)[half[0]]
    torch.testing.assert_close(half[1], expected)


def test_random_numbers_have_addresses():
    positions = np.arange(1000)
    stream = streams(7, [3, 4, 3, 3], [0, 0, 1, 0])
    assert stream[0] == stream[3]
    assert len({int(s) for s in stream}) == 3
    assert streams(8, [3], [0])[0] != stream[0] == streams(7, [3], [0])[0]
    assert streams(-1, [-5], [2**70])[0] == streams(2**64 - 1, [2**64 - 5], [0])[0]
    numbers = uniforms(stream[0].repeat(1000), positions)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert len(set(numbers)) == 1000
    assert uniforms(stream[:1], positions[17:18])[0] == numbers[17]
    counts = np.histogram(uniforms(streams(0, range(20_000), [0] * 20_000), np.zeros(20_000)), bins=20, range=(0, 1))[0]
    assert chisquare(counts).pvalue > 0.01
