"""torch.compile of a model's layers, one after another: they are alike, so what is compiled for one serves all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from posttrain.errors import ConfigError


class CompiledLayers:
    """The layers of a decoder, compiled with dynamic shapes on from `put_on` to `take_off`.

    Raises ConfigError for a backend that torch does not have, and for a decoder without a list of layers.
    """

    def __init__(self, decoder: nn.Module, *, backend: str, mode: str | None = None) -> None:
        known = torch._dynamo.list_backends(exclude_tags=())
        if backend not in known:
            raise ConfigError(f"torch_compile_backend={backend!r} is none of those of torch: {', '.join(known)}")
        lists = [part for part in decoder.children() if isinstance(part, nn.ModuleList)]
        if len(lists) != 1:
            raise ConfigError(
                f"torch_compile: {type(decoder).__name__} has {len(lists)} lists of layers, and one is compiled; leave "
                "it out"
            )
        options: dict[str, Any] = {} if mode is None else {"mode": mode}
        self._layers: list[tuple[nn.Module, Any]] = []
        for layer in lists[0]:
            try:
                layer.compile(backend=backend, dynamic=True, **options)
            except RuntimeError as error:
                raise ConfigError(f"torch_compile_mode={mode!r}: {error}") from error
            self._layers.append((layer, layer._compiled_call_impl))

    def __len__(self) -> int:
        return len(self._layers)

    def put_on(self) -> None:
        for layer, compiled in self._layers:
            layer._compiled_call_impl = compiled

    def take_off(self) -> None:
        """The layers as they came."""
        for layer, _ in self._layers:
            layer._compiled_call_impl = None
