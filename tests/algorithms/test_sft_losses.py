"""The losses of supervised fine-tuning by hand: dynamic fine-tuning, label smoothing, weights, and the cut."""

import math

import pytest
import torch

from posttrain.algorithms.sft import TOKEN_LOSSES, SFTLoss, sft_batch
from posttrain.types import Outputs, Segment

HALF, TENTH = math.log(0.5), math.log(0.1)


def row(length, **columns):
    return Segment(tokens=list(range(1, length + 1)), trained=[(1, length)], columns=columns)


def outputs(logprobs, mean=None):
    mean = None if mean is None else torch.tensor(mean)
    return Outputs(logprobs=torch.tensor(logprobs), correct=torch.ones(len(logprobs)) > 0, mean_logprobs=mean)


def test_dft_weighs_a_token_by_its_own_probability():
    logprobs = torch.tensor([HALF, TENTH], requires_grad=True)
    loss = SFTLoss(loss_type="dft")(sft_batch([row(3)]), Outputs(logprobs=logprobs))
    assert loss.terms["sft"].item() == pytest.approx(0.5 * math.log(2) + 0.1 * math.log(10))
    (gradient,) = torch.autograd.grad(loss.terms["sft"], logprobs)
    torch.testing.assert_close(gradient, torch.tensor([-0.5, -0.1]))  # of log p alone: the weight is held still


def test_label_smoothing_puts_the_vocabulary_s_mean_in_the_place_of_a_share():
    """p = (1/8, 2/8, 5/8), the second is right: 0.7 ln 4 + 0.3 (3 ln 8 - ln 10) / 3."""
    loss = SFTLoss(label_smoothing_factor=0.3)
    assert loss.needs == ("mean_logprobs",)
    found = loss(sft_batch([row(2)]), outputs([math.log(0.25)], [(math.log(10) - 3 * math.log(8)) / 3]))
    assert found.terms["sft"].item() == pytest.approx(0.7 * math.log(4) + 0.1 * (3 * math.log(8) - math.log(10)))
    assert SFTLoss().needs == ()


def test_label_smoothing_is_transformers_own():
    from transformers.trainer_pt_utils import LabelSmoother

    logits = torch.randn(1, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 3, 4, -100, 10, 0]])
    theirs = LabelSmoother(epsilon=0.2)({"logits": logits}, labels, shift_labels=True)
    kept = labels[0, 1:] >= 0
    table = logits[0, :-1].log_softmax(-1)[kept]
    chosen = table.gather(1, labels[0, 1:][kept][:, None])[:, 0]
    ours = SFTLoss(label_smoothing_factor=0.2)(
        sft_batch([row(5)]), Outputs(logprobs=chosen, mean_logprobs=table.mean(-1))
    )
    torch.testing.assert_close(ours.terms["sft"] / 4, theirs)


def test_a_weighted_turn_counts_as_much_as_it_weighs():
    batch = sft_batch([row(3, weight=[2.0, 0.5]), row(2)])
    assert batch.units == {"sft": 3.5}
    loss = SFTLoss()(batch, outputs([HALF, TENTH, HALF]))
    assert loss.terms["sft"].item() == pytest.approx(2.5 * math.log(2) + 0.5 * math.log(10) + 0.5 * math.log(2))
    assert sft_batch([row(3), row(2)]).weights is None


def test_a_pack_is_the_rows_it_holds():
    rows = [row(3), row(2, weight=[0.5]), row(4)]
    pack = sft_batch([Segment(tokens=(), children=rows[:2]), rows[2]])
    plain = sft_batch(rows)
    assert pack.units == plain.units
    for name in ("tokens", "positions", "predictors", "targets"):
        assert torch.equal(getattr(pack.forest, name), getattr(plain.forest, name))


@pytest.mark.parametrize("max_tokens", [1, 5, 9])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss_type", TOKEN_LOSSES)
def test_the_loss_is_the_sum_of_its_parts(loss_type, smoothing, max_tokens):
    batch = sft_batch([row(3, weight=[2.0, 0.5]), row(2), row(5), row(4, weight=[0.1, 3.0, 1.0]), row(2)])
    generator = torch.Generator().manual_seed(1)
    values, means = (-torch.rand(11, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    loss = SFTLoss(loss_type=loss_type, label_smoothing_factor=smoothing)

    def of(part, chosen, mean):
        return loss(part, Outputs(logprobs=chosen, mean_logprobs=mean if smoothing else None)).terms["sft"]

    parts = batch.cut(max_tokens)
    assert len(parts) > 1
    sizes = [len(part.forest.targets) for part in parts]
    pieces = [of(*piece) for piece in zip(parts, values.split(sizes), means.split(sizes))]
    torch.testing.assert_close(sum(pieces), of(batch, values, means))
    assert of(batch.nothing(), values[:0], means[:0]) == 0
