"""Saved tensors that a backward pass computes again, because what they are made of is kept anyway.

A linear layer keeps its input for its weight's gradient. Where that input is a normalisation of the residual stream, or
the product inside a gated MLP, its own inputs are kept by the function that made it, and computing it again takes a
pass or two over the numbers: then it need not be kept. Whoever makes such a tensor says so with `recomputable`; inside
`recomputing` autograd keeps the recipe in its place, whichever layer it goes to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class _Recipe:
    """How to make a tensor again; once made, it stays until the last function that kept the recipe has run."""

    __slots__ = ("_function", "_inputs", "_result", "_versions")

    def __init__(self, function: Callable[..., Tensor], inputs: list[Any]) -> None:
        self._function, self._inputs = function, inputs
        self._versions = [kept._version if isinstance(kept, Tensor) else 0 for kept in inputs]
        self._result: Tensor | None = None

    @torch.no_grad()
    def result(self) -> Tensor:
        if self._result is None:
            for kept, version in zip(self._inputs, self._versions):
                if isinstance(kept, Tensor) and kept._version != version:
                    raise RuntimeError("a tensor that the backward pass needs was changed in place after the forward")
            self._result = self._function(*(_unpack(kept) for kept in self._inputs))
            self._inputs = []
        return self._result


class _Part:
    """A view of what a recipe makes."""

    __slots__ = ("offset", "recipe", "size", "stride")

    def __init__(self, recipe: _Recipe, tensor: Tensor) -> None:
        self.recipe = recipe
        self.size, self.stride, self.offset = tensor.size(), tensor.stride(), tensor.storage_offset()


class _Scope(threading.local):
    known: dict[int, tuple[weakref.ref[Tensor], int, _Recipe]] | None = None  # by the address of the memory


_scope = _Scope()


def _pack(tensor: Tensor) -> Any:
    known = _scope.known
    if not known or tensor.is_leaf or (entry := known.get(tensor.untyped_storage().data_ptr())) is None:
        return tensor
    reference, version, recipe = entry
    made = reference()
    if made is None or made.dtype != tensor.dtype or tensor._version != version:  # changed in place since
        return tensor
    return _Part(recipe, tensor)


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, _Part):
        return kept.recipe.result().as_strided(kept.size, kept.stride, kept.offset)
    return kept


@contextmanager
def recomputing() -> Iterator[None]:
    """Inside, autograd keeps the recipe of a `recomputable` tensor in its place."""
    if not torch.is_grad_enabled():
        yield
        return
    before, _scope.known = _scope.known, {}
    try:
        with saved_tensors_hooks(_pack, _unpack):
            yield
    finally:
        _scope.known.clear()
        _scope.known = before


def is_recomputable(tensor: Tensor) -> bool:
    """Whether keeping this tensor costs nothing."""
    return isinstance(_pack(tensor), _Part)


def recomputable(made: Tensor, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`made`, noted as what `function(*inputs)` gives again, bit for bit, in the same layout.

    For tensors whose inputs are kept in any case. Outside of `recomputing` nothing is noted.
    """
    if torch.compiler.is_compiling():  # a compiler decides itself what is kept
        return made
    known = _scope.known
    if known is None or not made.requires_grad or not made.numel():
        return made
    address = made.untyped_storage().data_ptr()
    packed = [_pack(tensor) for tensor in inputs]
    recipe = _Recipe(function, [kept.detach() if isinstance(kept, Tensor) else kept for kept in packed])
    # forgotten with the tensor: an entry must neither outlive its memory nor keep the inputs of what nobody saved
    known[address] = weakref.ref(made, lambda gone: _forget(known, address, gone)), made._version, recipe
    return made


def _forget(known: dict[int, Any], address: int, gone: weakref.ref[Tensor]) -> None:
    if address in known and known[address][0] is gone:
        del known[address]
