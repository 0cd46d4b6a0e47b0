"""What is kept for the backward, counted in bytes, and that the recipes change nothing."""

import copy
import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posttrain.models.elementwise import gated, rms_norm
from posttrain.models.learner import Learner
from posttrain.models.recomputed import is_recomputable, recomputable, recomputing
from posttrain.types import Segment, TokenForest


class LiveBytes(TorchDispatchMode):
    """Counts the memory of all tensors that were made inside and still live."""

    def __init__(self):
        super().__init__()
        self.now, self._known = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(made):
            storage = x.untyped_storage() if isinstance(x, torch.Tensor) else None
            if storage is None or storage._cdata in given | self._known:
                continue
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return made

    def _forget(self, key, size):
        self._known.discard(key)
        self.now -= size


def flat_rows(count=8, length=40):
    tokens = torch.randint(384, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    return [Segment(tokens=row, trained=[(length - 4, length)]) for row in tokens]


def shared_prompts(count=2, children=4, prompt=40, length=20):
    draw = torch.Generator().manual_seed(0)

    def tokens(size):
        return torch.randint(384, (size,), generator=draw).tolist()

    leaves = [[Segment(tokens=tokens(length), trained=[(0, 2)]) for _ in range(children)] for _ in range(count)]
    return [Segment(tokens=tokens(prompt), children=these) for these in leaves]


def kept(learner, trees):
    """Bytes that a forward pass leaves for the backward."""
    forest = TokenForest.from_trees(trees)
    learner(forest)  # what is made once
    with LiveBytes() as live:
        logprobs = learner(forest).logprobs
    assert logprobs.requires_grad
    return live.now


def plain(model):
    learner = Learner(model)
    learner.body.stand_ins.forwards.clear()
    return learner


SIZES = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "head_dim": 16}


@pytest.mark.parametrize(
    ("arch", "trees", "lora", "factor"),
    [
        ("qwen3", flat_rows, False, 2.15),
        ("llama", flat_rows, False, 1.9),
        ("gemma3_text", flat_rows, False, 2.1),
        ("phi3", flat_rows, False, 2.05),
        ("qwen3", flat_rows, True, 1.8),
        ("qwen3", shared_prompts, False, 2.3),
    ],
)
def test_a_forward_pass_keeps_about_half(tiny_model, monkeypatch, arch, trees, lora, factor):
    """A count that must not be lost unnoticed: bytes kept, against the model's own code."""

    def build():
        model = tiny_model(arch, **SIZES)
        return get_peft_model(model, LoraConfig(target_modules="all-linear", r=4)) if lora else model

    ours = kept(Learner(build()).train(), trees())
    monkeypatch.setattr("posttrain.models.body.recomputing", torch.enable_grad)
    own = kept(plain(build()).train(), trees())
    assert own / ours >= factor


def test_what_goes_to_several_layers_is_made_once_and_let_go():
    x = torch.randn(6, 8, requires_grad=True)
    layers = [torch.nn.Linear(8, 8, bias=False) for _ in range(3)]
    made = []

    def double(t):
        made.append(t.shape)
        return t * 2

    with recomputing():
        y = recomputable(x * 2, double, x)
        assert is_recomputable(y)
        assert is_recomputable(y[1:])
        assert not is_recomputable(x)
        total = sum(layer(y[1:]).sum() for layer in layers)
        gone = weakref.ref(y)
        del y
    assert gone() is None
    total.backward(retain_graph=True)
    assert made == [x.shape]
    wanted = (2 * x.detach()[1:]).sum(dim=0).expand(8, 8)
    torch.testing.assert_close(layers[0].weight.grad, wanted)
    total.backward()
    torch.testing.assert_close(layers[0].weight.grad, 2 * wanted)


def test_a_recipe_may_rest_on_another():
    x, w = torch.randn(4, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    layer = torch.nn.Linear(8, 3, bias=False)

    def grads(scope):
        with scope:
            y = rms_norm(x, w, 1e-6, "after")
            z = gated(y, y, "silu")
            out = layer(z)
        return torch.autograd.grad(out.square().sum(), [x, w, layer.weight])

    for ours, wanted in zip(grads(recomputing()), grads(torch.enable_grad()), strict=True):
        assert torch.equal(ours, wanted)


def test_a_tensor_that_is_changed_in_place_is_kept_as_it_is():
    x = torch.ones(3, 4, requires_grad=True)
    layer = torch.nn.Linear(4, 2, bias=False)
    with recomputing():
        y = recomputable(x * 2, lambda t: t * 2, x)
        y += 5
        layer(y).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 4), 21.0))


def test_what_a_recipe_needs_must_not_change():
    x, layer = torch.ones(3, 4, requires_grad=True), torch.nn.Linear(4, 2, bias=False)
    weight = torch.ones(4)
    with recomputing():
        total = layer(recomputable(x * weight, torch.mul, x, weight)).sum()
    weight.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        total.backward()


def test_memory_that_is_used_again_is_not_mistaken():
    """An entry is forgotten with its tensor, even when the next tensor comes to lie in the same place."""
    x = torch.ones(64, 64, requires_grad=True)
    layer = torch.nn.Linear(64, 2, bias=False)
    with recomputing():
        for value in range(20):
            recomputable(x * 2, lambda t: t * 2, x)  # nobody keeps it
            other = x * value
            assert not is_recomputable(other)
            layer.zero_grad()
            layer(other).sum().backward()
            torch.testing.assert_close(layer.weight.grad, torch.full((2, 64), 64.0 * value))


def test_nothing_is_noted_outside_or_without_gradients():
    x = torch.ones(3, 4, requires_grad=True)
    assert not is_recomputable(recomputable(x * 2, lambda t: t * 2, x))
    with torch.no_grad(), recomputing():
        assert not is_recomputable(recomputable(x * 2, lambda t: t * 2, x))


def test_a_scope_leaves_nothing_behind():
    x = torch.ones(3, 4, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        with recomputing():
            y = x * 3
            z = recomputable(y * 2, lambda t: t * 2, y)
            gone = weakref.ref(y)
            del y
        del z
        assert gone() is None
    finally:
        gc.enable()


def test_a_second_pass_of_the_same_step_gives_the_same_bits(tiny_model):
    model = tiny_model("qwen3")
    forest = TokenForest.from_trees(shared_prompts())

    def gradients(learner):
        learner.zero_grad()
        learner(forest).logprobs.sum().backward()
        return [p.grad.clone() for p in learner.parameters()]

    learner = Learner(model).train()
    first = gradients(learner)
    again = gradients(Learner(copy.deepcopy(learner.release())).train())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
