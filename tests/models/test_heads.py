import pytest
import torch

from posttrain.models.heads import chosen_logprobs

ROWS, VOCABULARY, SIZE = 37, 1000, 16


def case(*, frozen: bool, bias: bool, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, SIZE, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, SIZE, generator=generator).to(dtype).requires_grad_(not frozen)
    shift = torch.randn(VOCABULARY, generator=generator).to(dtype).requires_grad_(not frozen) if bias else None
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    targets[0] = int((hidden[0].float() @ weight.float().T + (0 if shift is None else shift.float())).argmax())
    return hidden, weight, shift, targets, torch.randn(ROWS, generator=generator)


def plain(hidden, weight, bias, targets):
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    table = logits.float().log_softmax(dim=1)
    return table.gather(1, targets[:, None])[:, 0], logits.argmax(dim=1) == targets, -(table.exp() * table).sum(dim=1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("frozen", "keep_bytes"), [(True, 0), (False, 2**30), (False, 0)], ids=["frozen", "kept", "tiles"]
)
def test_each_way_equals_plain_log_softmax(frozen, keep_bytes, bias):
    hidden, weight, shift, targets, upstream = case(frozen=frozen, bias=bias)
    expected, correct, entropy = plain(hidden, weight, shift, targets)
    leaves = [t for t in (hidden, weight, shift) if t is not None and t.requires_grad]
    wanted = torch.autograd.grad((expected * upstream).sum(), leaves)
    chosen = chosen_logprobs(
        hidden, weight, targets, bias=shift, entropy=True, keep_bytes=keep_bytes, tile_bytes=16 * 1024
    )
    got = torch.autograd.grad((chosen.logprobs * upstream).sum(), leaves)
    torch.testing.assert_close(chosen.logprobs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chosen.entropy, entropy, rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen.correct, correct)
    assert bool(correct[0])
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keep_bytes", [2**30, 0])
@pytest.mark.parametrize("frozen", [True, False])
def test_no_rows_give_zero_gradients_not_missing_ones(frozen, keep_bytes):
    hidden, weight, _, targets, _ = case(frozen=frozen, bias=False)
    chosen = chosen_logprobs(hidden[:0], weight, targets[:0], keep_bytes=keep_bytes)
    chosen.logprobs.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert frozen or torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("keep_bytes", [2**30, 0])
def test_softmax_runs_in_float32_for_a_bfloat16_model(keep_bytes):
    hidden, weight, _, targets, upstream = case(frozen=False, bias=False, dtype=torch.bfloat16)
    expected, _, _ = plain(hidden.detach().float(), weight.detach().float(), None, targets)
    chosen = chosen_logprobs(hidden, weight, targets, keep_bytes=keep_bytes, tile_bytes=16 * 1024)
    assert chosen.logprobs.dtype == torch.float32
    # only the product is rounded to 8 bits of mantissa (logits of +-16: half a step of 1/16); a softmax in bfloat16
    # would lose several times as much
    assert (chosen.logprobs - expected).abs().max() < 0.08
    (chosen.logprobs * upstream).sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_a_second_backward_is_refused_rather_than_wrong():
    hidden, weight, _, targets, _ = case(frozen=False, bias=False)
    loss = chosen_logprobs(hidden, weight, targets).logprobs.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
