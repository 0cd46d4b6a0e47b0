"""Divergences against sums worked by hand and against rows of logits computed one by one."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.errors import ModelError
from posttrain.models.divergence import Moment, compare_logits, divergence
from posttrain.models.layouts import probe, row_logits
from posttrain.models.learner import Learner
from posttrain.models.reference import StartingWeights
from posttrain.types import Segment, TokenForest

LN2 = math.log(2)


def moved(model, by=0.05, seed=1):
    """The model with noise on all its weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


def by_rows(start, now, forest):
    """Σ p (log p - log q) in float64 on logits of plain forward passes, a row at a time."""
    with torch.no_grad():
        p, q = (row_logits(model, forest).double().log_softmax(-1) for model in (start, now))
    return (p.exp() * (p - q)).sum(-1), (q.exp() * (q - p)).sum(-1), -(p.exp() * p).sum(-1), -(q.exp() * q).sum(-1)


def test_three_tokens_by_hand():
    p = torch.tensor([[0.5, 0.25, 0.25]]).log() + 7.0  # logits are known up to a constant only
    q = torch.tensor([[0.25, 0.5, 0.25]]).log()
    found = compare_logits(p, q)
    assert found.forward.item() == pytest.approx(0.25 * LN2)  # 1/2 ln 2 - 1/4 ln 2
    assert found.reverse.item() == pytest.approx(0.25 * LN2)
    assert found.entropy_start.item() == pytest.approx(1.5 * LN2)
    assert found.changed.tolist() == [True]
    halves, thirds = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.zeros(1, 3)
    found = compare_logits(halves, thirds)
    assert found.forward.item() == pytest.approx(math.log(3 / 2))
    assert found.reverse.item() > 1e30  # q gives a third to a token that p rules out
    assert found.entropy_start.item() == pytest.approx(LN2)
    assert found.entropy_now.item() == pytest.approx(math.log(3))


def test_a_token_that_both_rule_out_counts_for_nothing():
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    found = compare_logits(logits, logits + torch.tensor([LN2, 0.0, 0.0]))
    assert found.forward.item() == pytest.approx(0.5 * math.log(9 / 8))  # against 2/3 and 1/3


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 10.0])
def test_close_models_keep_their_digits(size):
    torch.manual_seed(0)
    p = torch.randn(4, 5000) * 3
    q = p + size * torch.randn(4, 5000)
    exact = [logits.double().log_softmax(-1) for logits in (p, q)]
    expected = (exact[0].exp() * (exact[0] - exact[1])).sum(-1)
    found = compare_logits(p, q)
    assert found.forward.double() == pytest.approx(expected, rel=2e-3 if size < 1e-3 else 1e-5)
    assert (found.forward >= 0).all()
    assert (found.reverse >= 0).all()


@pytest.mark.parametrize("arch", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("memory_bytes", [2**27, 1])
def test_a_forest_equals_rows_computed_one_by_one(tiny_model, arch, memory_bytes):
    start, now = tiny_model(arch), moved(tiny_model(arch))
    trees = probe(start.config.vocab_size)
    expected = by_rows(start, now, TokenForest.from_trees(trees))
    found = divergence(
        trees, Moment(learner=Learner(start)), Moment(learner=Learner(now)), max_tokens=8, memory_bytes=memory_bytes
    )
    got = (found.forward, found.reverse, found.entropy_start, found.entropy_now)
    assert expected[0].min() > 1e-4
    for a, b in zip(got, expected):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


class LargestTable(TorchDispatchMode):
    """The most rows of any tensor over the vocabulary that an operation makes."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape[-1:] == (384,) and "t.default" not in str(func):
            self.rows = max(self.rows, result.numel() // 384)
        return result


def test_no_table_of_all_positions_is_ever_made(tiny_model):
    tokens = torch.randint(384, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    moments = [Moment(learner=Learner(model)) for model in (tiny_model("llama"), moved(tiny_model("llama")))]
    with LargestTable() as largest:
        divergence([Segment(tokens=tokens, trained=[(1, 200)])], *moments, memory_bytes=2 * 4 * 384 * 16)
    assert 0 < largest.rows <= 16


def test_equal_models_are_exactly_nowhere_apart(tiny_model):
    trees = probe(tiny_model("qwen3").config.vocab_size)
    found = divergence(trees, *(Moment(learner=Learner(tiny_model("qwen3"))) for _ in range(2)))
    assert found.forward.tolist() == found.reverse.tolist() == [0.0] * len(found.forward)
    assert not found.changed.any()


@pytest.mark.parametrize("adapter", [None, {"r": 4}, {"r": 4, "target_modules": ["q_proj", "lm_head"]}])
def test_one_module_at_two_times_equals_two_models(tiny_model, adapter):
    def make():
        model = tiny_model("llama", tie_word_embeddings=adapter is None)
        torch.manual_seed(0)
        return model if adapter is None else get_peft_model(model, LoraConfig(init_lora_weights=False, **adapter))

    def train(model):
        with torch.no_grad():
            for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        return model

    trees = probe(384)
    one = Learner(make())
    assert one.fused_head == (adapter is None or "target_modules" not in adapter)
    start = Moment(learner=one, during=StartingWeights(one.model))
    train(one.model)
    mode = [module.training for module in one.modules()]
    found = divergence(trees, start, Moment(learner=one), memory_bytes=2**14)
    expected = divergence(trees, Moment(learner=Learner(make())), Moment(learner=Learner(train(make()))))
    assert found.forward.min() > 0
    torch.testing.assert_close(found.forward, expected.forward, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.reverse, expected.reverse, rtol=1e-4, atol=1e-7)
    assert [module.training for module in one.modules()] == mode


def test_a_longer_vocabulary_is_compared_on_what_both_have(tiny_model):
    start, now = tiny_model("llama"), tiny_model("llama")
    now.resize_token_embeddings(now.config.vocab_size + 8)
    trees = probe(384)
    found = divergence(trees, Moment(learner=Learner(start)), Moment(learner=Learner(now)))
    assert found.forward.max() < 1e-9
    beyond = [Segment(tokens=[1, 385], trained=[(1, 2)])]
    with pytest.raises(ModelError, match=r"token 385 .* 384 and 392"):
        divergence(beyond, Moment(learner=Learner(start)), Moment(learner=Learner(now)))
