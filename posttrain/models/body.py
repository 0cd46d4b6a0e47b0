"""A model's body: the decoder that turns a forest into hidden states, with everything set up around it.

What the learners of log-probabilities, scores and values share: the layout that suits the model, the functions that
stand in for its modules while it is trained, dropout, recomputation, and the way back to the model as it came.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models.compilation import CompiledLayers
from posttrain.models.layouts import LAYOUTS, Laid, Layout, choose_layout
from posttrain.models.noise import EmbeddingNoise
from posttrain.models.recomputed import recomputing
from posttrain.models.stand_ins import StandIns
from posttrain.types import TokenForest


class Body:
    """The decoder of `model`, which may carry an adapter and any head; parameters stay where the model has them.

    It is no module, so a learner that holds it and the model has each parameter once, under the model's name.
    Without a `layout` one is chosen by `choose_layout`.
    """

    def __init__(self, model: Any, *, layout: str | None = None) -> None:
        self.model = model
        self.plain = model.get_base_model() if hasattr(model, "peft_config") else model  # without the adapter's wrapper
        self.layout: Layout
        if layout is None:
            self.layout, self.layout_note = choose_layout(self.plain)
        elif layout in LAYOUTS:
            self.layout, self.layout_note = LAYOUTS[layout], ""
        else:
            raise ModelError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}")
        self._own_attention = self.plain.config._attn_implementation
        self.stand_ins = StandIns(self.plain)
        self.noise: EmbeddingNoise | None = None
        self.compiled: CompiledLayers | None = None

    def lay(self, forest: TokenForest) -> Laid:
        """The forest laid out, and the model ready for it."""
        if self.layout.attention and self.plain.config._attn_implementation != self.layout.attention:
            self.plain.set_attn_implementation(self.layout.attention)
        # a compiler reads the modules' own code, not what stands in for it
        (self.compiled or self.stand_ins).put_on()
        laid = self.layout.lay(forest)
        if self.noise is not None:
            self.noise.expect(laid.inputs)
        return laid

    def hidden(self, laid: Laid, places: Tensor) -> Tensor:
        """[K, H]: the decoder's last states at `places` [K] of the laid forest.

        Places are `laid.predictors`, `laid.ends`, or both joined: one pass whatever is asked of it.
        """
        with recomputing():
            states = self.plain.get_decoder()(**laid.inputs).last_hidden_state
        return states.reshape(-1, states.shape[-1]).index_select(0, places)

    def release(self) -> Any:
        """The model with the attention and the modules it came with; the next `lay` takes over again."""
        (self.compiled or self.stand_ins).take_off()
        if self.noise is not None:
            self.noise.take_off()
        self.plain.set_attn_implementation(self._own_attention)
        return self.model

    def compile(self, *, backend: str, mode: str | None = None) -> None:
        """Compiles the layers with torch.compile."""
        self.stand_ins.take_off()
        self.compiled = CompiledLayers(self.plain.get_decoder(), backend=backend, mode=mode)

    def recompute_activations(self, **options: Any) -> None:
        """Trades time for memory: activations are computed again in the backward pass."""
        self.plain.activation_checkpointing_enable({"use_reentrant": False, **options})

    def disturb_embeddings(self, alpha: float) -> None:
        """Adds noise to the embeddings in training from now on (`EmbeddingNoise`)."""
        self.noise = EmbeddingNoise(self.plain.get_input_embeddings(), alpha)

    def switch_off_dropout(self) -> None:
        """Sets every dropout of the model to 0, that of the attention and of an adapter included."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for holder in (module, getattr(module, "config", None)):  # some layers ask the configuration each time
                for name, value in list(vars(holder).items()) if holder is not None else []:
                    if "drop" in name and isinstance(value, float):
                        setattr(holder, name, 0.0)


class BodyLearner(nn.Module):
    """What learners of one model have in common: `model`, its body, and what is asked of both. Subclasses read it."""

    def __init__(self, model: Any, *, layout: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.body = Body(model, layout=layout)

    @property
    def layout(self) -> Layout:
        """How forests are laid out for the model."""
        return self.body.layout

    @property
    def layout_note(self) -> str:
        """Why it is not the first of the layouts; empty where it is."""
        return self.body.layout_note

    def release(self) -> Any:
        """The model with the attention and the modules it came with; the next forward takes over again."""
        return self.body.release()

    def compile_body(self, *, backend: str, mode: str | None = None) -> None:
        """Compiles the layers of the model with torch.compile."""
        self.body.compile(backend=backend, mode=mode)

    def recompute_activations(self, **options: Any) -> None:
        """Trades time for memory: activations are computed again in the backward pass."""
        self.body.recompute_activations(**options)

    def disturb_embeddings(self, alpha: float) -> None:
        """Adds noise to the embeddings in training from now on (`EmbeddingNoise`)."""
        self.body.disturb_embeddings(alpha)

    def switch_off_dropout(self) -> None:
        """Sets every dropout of the model to 0, that of the attention and of an adapter included."""
        self.body.switch_off_dropout()
