import math

import pytest
import torch

from posttrain.models.heads import chosen_logprobs, log_collision

ROWS, VOCABULARY, SIZE = 37, 1000, 16


def case(*, frozen: bool, bias: bool, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, SIZE, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, SIZE, generator=generator).to(dtype).requires_grad_(not frozen)
    shift = torch.randn(VOCABULARY, generator=generator).to(dtype).requires_grad_(not frozen) if bias else None
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    targets[0] = int((hidden[0].float() @ weight.float().T + (0 if shift is None else shift.float())).argmax())
    return hidden, weight, shift, targets, torch.randn(ROWS, generator=generator)


def plain(hidden, weight, bias, targets, temperature=1.0):
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    table = (logits.float() / temperature).log_softmax(dim=1)
    return table.gather(1, targets[:, None])[:, 0], logits.argmax(dim=1) == targets, -(table.exp() * table).sum(dim=1)


WAYS = pytest.mark.parametrize(
    ("frozen", "keep_bytes"), [(True, 0), (False, 2**30), (False, 0)], ids=["frozen", "kept", "tiles"]
)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
@WAYS
def test_each_way_equals_plain_log_softmax(frozen, keep_bytes, bias, temperature):
    hidden, weight, shift, targets, upstream = case(frozen=frozen, bias=bias)
    expected, correct, entropy = plain(hidden, weight, shift, targets, temperature)
    leaves = [t for t in (hidden, weight, shift) if t is not None and t.requires_grad]
    wanted = torch.autograd.grad((expected * upstream).sum(), leaves)
    chosen = chosen_logprobs(
        hidden, weight, targets, bias=shift, temperature=temperature, entropy=True, keep_bytes=keep_bytes,
        tile_bytes=16 * 1024,
    )  # fmt: skip
    got = torch.autograd.grad((chosen.logprobs * upstream).sum(), leaves)
    torch.testing.assert_close(chosen.logprobs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chosen.entropy, entropy, rtol=1e-5, atol=1e-5)
    assert not chosen.entropy.requires_grad
    assert torch.equal(chosen.correct, correct)
    assert bool(correct[0])
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of_logprobs", [1.0, 0.0], ids=["both", "entropy alone"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@WAYS
def test_each_way_has_the_gradient_of_the_entropy(frozen, keep_bytes, temperature, of_logprobs):
    hidden, weight, shift, targets, upstream = case(frozen=frozen, bias=True)
    other = upstream.flip(0)
    expected, _, entropy = plain(hidden, weight, shift, targets, temperature)
    leaves = [t for t in (hidden, weight, shift) if t.requires_grad]
    wanted = torch.autograd.grad((expected * upstream * of_logprobs + entropy * other).sum(), leaves)
    chosen = chosen_logprobs(
        hidden, weight, targets, bias=shift, temperature=temperature, entropy_grad=True, keep_bytes=keep_bytes,
        tile_bytes=16 * 1024,
    )  # fmt: skip
    loss = (chosen.entropy * other).sum()
    if of_logprobs:
        loss = loss + (chosen.logprobs * upstream).sum()
    torch.testing.assert_close(chosen.entropy, entropy, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(loss, leaves), wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@WAYS
def test_a_token_without_any_mass_has_no_part_in_the_entropy_or_its_gradient(frozen, keep_bytes):
    """Logits of 0 and 300 (and a bias of -inf): the entropy of a certain token is 0 and its gradient too."""
    hidden = torch.tensor([[300.0], [1.0]]).requires_grad_()
    weight = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).requires_grad_(not frozen)
    bias = torch.tensor([0.0, 0.0, -torch.inf, 0.0])
    chosen = chosen_logprobs(
        hidden, weight, torch.tensor([1, 1]), bias=bias, entropy_grad=True, keep_bytes=keep_bytes, tile_bytes=64
    )
    chosen.entropy.sum().backward()
    # the second row has probabilities e : 1 : 1; dH/dz = -p (log p + H) and z = h for the chosen token alone
    p = math.e / (math.e + 2)
    nats = -p * math.log(p) - (1 - p) * math.log((1 - p) / 2)
    torch.testing.assert_close(chosen.entropy, torch.tensor([0.0, nats]))
    torch.testing.assert_close(hidden.grad, torch.tensor([[0.0], [-p * (math.log(p) + nats)]]))
    assert frozen or weight.grad.isfinite().all()


def test_without_gradients_an_entropy_is_still_given():
    hidden, weight, _, targets, _ = case(frozen=False, bias=False)
    with torch.no_grad():
        chosen = chosen_logprobs(hidden, weight, targets, entropy_grad=True)
    torch.testing.assert_close(chosen.entropy, plain(hidden, weight, None, targets)[2].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep_bytes", [2**30, 0])
@pytest.mark.parametrize("frozen", [True, False])
def test_no_rows_give_zero_gradients_not_missing_ones(frozen, keep_bytes):
    hidden, weight, _, targets, _ = case(frozen=frozen, bias=False)
    chosen = chosen_logprobs(hidden[:0], weight, targets[:0], entropy_grad=True, keep_bytes=keep_bytes)
    (chosen.logprobs.sum() + chosen.entropy.sum()).backward()
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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tile_bytes", [1, 2**24])
def test_the_chance_of_two_equal_draws(bias, tile_bytes):
    hidden, weight, shift, _, _ = case(frozen=False, bias=bias)
    found = log_collision(hidden, weight, bias=shift, temperature=0.7, tile_bytes=tile_bytes)
    logits = hidden @ weight.T + (shift if bias else 0)
    torch.testing.assert_close(found, ((logits / 0.7).softmax(dim=1) ** 2).sum(dim=1).log().detach())
    assert not found.requires_grad
