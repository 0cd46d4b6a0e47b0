"""One step of decoding as a plain loop over a model's weights: Llama, Qwen2, Qwen3, Mistral.

    q, k, v = W_qkv rms(h);  h += W_o attention(rope(q), rope(k), v);  h += W_down (act(W_gate rms(h)) * W_up rms(h))

The model's own modules compute the same with several times as many calls, each of which costs more than its
arithmetic when only a few rows are decoded. Matrices that see the same input are laid together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from posttrain.models.decoding_memory import How, RowMemory
from posttrain.models.packed import TiledMatrix

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")  # transformers' model types
JOINED_BYTES = 2**30  # of weights copied in order to lie together; a larger model's are left where they are


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    before_attention: Tensor  # [H] weight of the norm
    qkv: Sequence[tuple[Tensor, Tensor | None]]  # matrices with their biases, joined to one or side by side
    head_norms: Tensor | None  # [query and key heads, head size]
    out: tuple[Tensor, Tensor | None]
    before_mlp: Tensor  # [H]
    gate_up: Sequence[tuple[Tensor, Tensor | None]]
    down: tuple[Tensor, Tensor | None]


def fusable(model: Any) -> bool:
    """Whether the model is of a known architecture and all its matrices are plain, or merged with their adapters."""
    if getattr(model.config, "model_type", None) not in ARCHITECTURES:
        return False
    body = model.get_decoder()
    matrices = [m for layer in body.layers for m in (*attention_matrices(layer), *mlp_matrices(layer))]
    weights = [body.embed_tokens.weight, *(w for m in matrices if (w := _weight(m)) is not None)]
    return len(weights) == len(matrices) + 1 and len({w.device for w in weights}) == 1


def attention_matrices(layer: Any) -> tuple[Any, ...]:
    attention = layer.self_attn
    return attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj


def mlp_matrices(layer: Any) -> tuple[Any, ...]:
    return layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj


def plain(module: Any) -> nn.Linear | None:
    """The matrix that the module multiplies by, if that is all it does."""
    if isinstance(module, LoraLayer) and module.merged:
        module = module.get_base_layer()
    return module if type(module) is nn.Linear else None


def _weight(module: Any) -> Tensor | None:
    found = plain(module)
    return None if found is None else found.weight


def matrix(module: Any) -> tuple[Tensor, Tensor | None]:
    found = plain(module)
    assert found is not None, "a matrix that `fusable` would have refused"
    return found.weight.detach(), None if found.bias is None else found.bias.detach()


class FusedStep:
    """The step for one state of the weights: what is laid together is copied when this is made."""

    def __init__(self, model: Any) -> None:
        body = model.get_decoder()
        config = model.config
        self._body = body
        self._head = model.get_output_embeddings()
        self._heads, self._kv = config.num_attention_heads, config.num_key_value_heads
        self._act = body.layers[0].mlp.act_fn
        self._eps = body.norm.variance_epsilon
        weights = [m for layer in body.layers for m in (*attention_matrices(layer)[:3], *mlp_matrices(layer)[:2])]
        size = sum(matrix(m)[0].numel() * matrix(m)[0].element_size() for m in weights)
        join = joined if size <= JOINED_BYTES else list
        self._tiled = TiledMatrix(self._head.weight) if type(self._head) is nn.Linear else None
        self._layers = [self._layer(layer, join) for layer in body.layers]

    def _layer(self, layer: Any, join: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norms = None
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
            head_norms = torch.stack([q] * self._heads + [k] * self._kv)
        return _Layer(
            before_attention=layer.input_layernorm.weight.detach(),
            qkv=join([matrix(m) for m in attention_matrices(layer)[:3]]),
            head_norms=head_norms,
            out=matrix(attention.o_proj),
            before_mlp=layer.post_attention_layernorm.weight.detach(),
            gate_up=join([matrix(mlp.gate_proj), matrix(mlp.up_proj)]),
            down=matrix(mlp.down_proj),
        )

    def __call__(self, tokens: Tensor, positions: Tensor, memory: RowMemory, how: Mapping[int, How]) -> Tensor:
        """Logits [count, V] after these tokens [count] at these positions, one for each row of the memory.

        The next call may write over them.
        """
        states = self._body.embed_tokens(tokens)
        cos, sin = (table[0][:, None] for table in self._body.rotary_emb(states, positions[None]))
        half = cos.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, layer in enumerate(self._layers):
            mixed = _products(self._norm(states, layer.before_attention), layer.qkv)
            heads = mixed.view(len(tokens), self._heads + 2 * self._kv, -1)
            turned, value = heads[:, : -self._kv], heads[:, -self._kv :]
            if layer.head_norms is not None:
                turned = self._norm(turned, layer.head_norms)
            # x cos + (-x2, x1) sin, as (x1, x2) cos + (x2, x1) (-sin, sin)
            swapped = torch.cat([turned[..., half:], turned[..., :half]], dim=-1)
            turned = torch.addcmul(turned * cos, swapped, sin)
            query, key = turned[:, : self._heads], turned[:, self._heads :]
            attended = memory.attend(number, query, key, value, how[number])
            states = states + _products(attended.reshape(len(tokens), -1).to(states.dtype), [layer.out])
            gate, up = _products(self._norm(states, layer.before_mlp), layer.gate_up).chunk(2, dim=-1)
            states = states + _products(self._act(gate) * up, [layer.down])
        return self._logits(self._norm(states, self._body.norm.weight))

    def _logits(self, states: Tensor) -> Tensor:
        """What the head gives, on a CPU in tiles of the vocabulary and always into the same memory."""
        head = self._head
        simple = self._tiled is not None and head.bias is None and states.dtype == head.weight.dtype == torch.float32
        if not simple or states.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return head(states)
        assert self._tiled is not None
        return self._tiled(states)

    def _norm(self, states: Tensor, weight: Tensor) -> Tensor:
        wide = states.float()
        scale = wide.square().mean(dim=-1, keepdim=True).add_(self._eps).rsqrt_()
        return weight * (wide * scale).to(states.dtype)


def joined(matrices: Sequence[tuple[Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor | None]]:
    weight = torch.cat([weight for weight, _ in matrices])
    biases = [weight.new_zeros(weight.shape[0]) if bias is None else bias for weight, bias in matrices]
    return [(weight, torch.cat(biases) if any(bias is not None for _, bias in matrices) else None)]


def _products(states: Tensor, matrices: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """The input under each matrix, one after the other along the last dimension."""
    products = [linear(states, weight, bias) for weight, bias in matrices]
    return products[0] if len(products) == 1 else torch.cat(products, dim=-1)
