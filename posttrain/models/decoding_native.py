"""The step of `decoding_step.py` with packed matrices and everything between them compiled, for float32 on a CPU.

Attention reads a row's keys where they lie, the prompt's and the row's own; norms, rotation and gating run over a row
while it is in the cache. `decoding_native.cpp` is the code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.models.compiled import compiled
from posttrain.models.decoding_memory import How, RowMemory
from posttrain.models.decoding_step import (
    JOINED_BYTES,
    attention_matrices,
    fusable,
    joined,
    matrix,
    mlp_matrices,
    plain,
)
from posttrain.models.packed import PackedMatrix, TiledMatrix, packable

SOURCE = Path(__file__).with_suffix(".cpp")
LARGEST_HEAD = 1024  # numbers of an attention head, for which the code has room
HEAD_BYTES = 2**26  # of the vocabulary's matrix that is copied to be packed


class _Attention(ctypes.Structure):
    """`struct Attention` of the C++."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "heads", "kv", "dim", "capacity", "widest", "window", "threads")),
        *((name, ctypes.c_float) for name in ("scale", "eps")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "mixed", "query_norm", "key_norm", "cos", "sin", "keys", "values", "own", "prompt_keys",
                "prompt_values", "places", "prompt_length", "out",
            )
        ),
    )  # fmt: skip


def compilable(model: Any) -> bool:
    """Whether the compiled step is to be had here and computes what this model does."""
    head = model.get_output_embeddings()
    if not fusable(model) or plain(head) is None or not packable(head.weight):
        return False
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):  # each is read where it lies
        return False
    size = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    silu = getattr(model.config, "hidden_act", None) in ("silu", "swish")
    bytes_ = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return silu and size <= LARGEST_HEAD and bytes_ <= JOINED_BYTES and compiled(SOURCE)[0] is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    before_attention: Tensor  # [H] weight of the norm
    qkv: PackedMatrix
    query_norm: Tensor | None  # [head size]
    key_norm: Tensor | None
    out: PackedMatrix
    before_mlp: Tensor  # [H]
    gate_up: PackedMatrix
    down: PackedMatrix


class NativeStep:
    """The step for one state of the weights: they are copied when this is made, for about `rows` rows a step."""

    def __init__(self, model: Any, *, rows: int = 64) -> None:
        library, why = compiled(SOURCE)
        assert library is not None, why
        self._library = library
        self._body, config = model.get_decoder(), model.config
        self._heads, self._kv = config.num_attention_heads, config.num_key_value_heads
        self._eps = self._body.norm.variance_epsilon

        def packed(*modules: Any) -> PackedMatrix:
            ((weight, bias),) = joined([matrix(module) for module in modules])
            return PackedMatrix(weight, bias, rows=rows)

        self._layers = [
            _Layer(
                before_attention=layer.input_layernorm.weight.detach(),
                qkv=packed(*attention_matrices(layer)[:3]),
                query_norm=layer.self_attn.q_norm.weight.detach() if hasattr(layer.self_attn, "q_norm") else None,
                key_norm=layer.self_attn.k_norm.weight.detach() if hasattr(layer.self_attn, "k_norm") else None,
                out=packed(layer.self_attn.o_proj),
                before_mlp=layer.post_attention_layernorm.weight.detach(),
                gate_up=packed(*mlp_matrices(layer)[:2]),
                down=packed(layer.mlp.down_proj),
            )
            for layer in self._body.layers
        ]
        head, bias = matrix(model.get_output_embeddings())
        large = bias is None and head.numel() * head.element_size() > HEAD_BYTES
        self._head = TiledMatrix(head) if large else PackedMatrix(head, bias, rows=rows)
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, tokens: Tensor, positions: Tensor, memory: RowMemory, how: Mapping[int, How]) -> Tensor:
        """Logits [count, V] after these tokens [count] at these positions, one for each row of the memory.

        The next call may write over them.
        """
        states = self._body.embed_tokens(tokens).contiguous()
        cos, sin = (table[0].contiguous() for table in self._body.rotary_emb(states, positions[None]))
        extent = memory.extent()
        normed = self._room("normed", *states.shape)
        attended = self._room("attended", len(states), self._heads * cos.shape[1])
        added: Tensor | None = None
        for number, layer in enumerate(self._layers):
            self._add_norm(states, added, layer.before_attention, normed)
            mixed = layer.qkv(normed)
            keys, values, prompt_keys, prompt_values = memory.places(number)
            given = _Attention(
                rows=len(states), heads=self._heads, kv=self._kv, dim=cos.shape[1], capacity=extent.capacity,
                widest=extent.widest, window=how[number].window or 0, threads=torch.get_num_threads(),
                scale=how[number].scaling, eps=self._eps, mixed=_at(mixed), query_norm=_at(layer.query_norm),
                key_norm=_at(layer.key_norm), cos=_at(cos), sin=_at(sin), keys=_at(keys), values=_at(values),
                own=extent.own.ctypes.data, prompt_keys=_at(prompt_keys), prompt_values=_at(prompt_values),
                places=extent.places.ctypes.data, prompt_length=extent.lengths.ctypes.data, out=_at(attended),
            )  # fmt: skip
            self._library.posttrain_attend(ctypes.byref(given))
            self._add_norm(states, layer.out(attended), layer.before_mlp, normed)
            added = layer.down(self._gated(layer.gate_up(normed)))
        self._add_norm(states, added, self._body.norm.weight, normed)
        return self._head(normed)

    def _add_norm(self, states: Tensor, added: Tensor | None, weight: Tensor, out: Tensor) -> None:
        """Adds to the states in place, and writes them normalised."""
        self._library.posttrain_add_norm(
            *map(ctypes.c_int64, states.shape), _pointer(states), _pointer(added), _pointer(weight),
            ctypes.c_float(self._eps), _pointer(out), ctypes.c_int64(torch.get_num_threads()),
        )  # fmt: skip

    def _gated(self, both: Tensor) -> Tensor:
        """silu(gate) up, of rows that hold one after the other."""
        out = self._room("gated", len(both), both.shape[1] // 2)
        self._library.posttrain_gated(
            *map(ctypes.c_int64, out.shape), _pointer(both), _pointer(out), ctypes.c_int64(torch.get_num_threads())
        )
        return out

    def _room(self, name: str, rows: int, size: int) -> Tensor:
        """A buffer that the next step writes over."""
        held = self._buffers.get(name)
        if held is None or held.shape[0] < rows:
            held = self._buffers[name] = torch.empty(rows, size, dtype=torch.float32, device="cpu")
        return held[:rows]


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(_at(tensor))
