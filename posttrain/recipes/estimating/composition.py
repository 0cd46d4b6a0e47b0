"""The memory that follows from a model's shape and the settings alone: weights, gradients, moments, copies.

A parameter is held once in the weights' number type. A trained one has a gradient of the same size, as many moments as
its optimiser keeps, and a copy where the run looks back at the model it started from. What a pass keeps for its
backward depends on how a step is cut and on the model's code, and is measured (`probe.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import TaskType
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.config.training import TrainingConfig
from posttrain.models.loading import as_dtype, choose_dtype, pretrained
from posttrain.models.locating import local_directory, read_json
from posttrain.models.lora import apply_lora

# what an optimiser keeps for a parameter, in numbers of its size; adafactor's are a row and a column
_MOMENTS: Mapping[str, float] = {
    "sgd": 0,
    **dict.fromkeys(("adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_32bit"), 1),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit"), 1),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit", "adamw_torch_4bit"), 0.25),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 0.5),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 3),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 0.75),
}
_ADAMS = 2.0  # of one that is not in the table: Adam and what derives from it


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Bytes by what they are for."""

    parameters: int
    trained: int
    vocabulary: int
    weights: int
    gradients: int
    optimizer: int
    reference: int  # the weights of the start, where the run keeps them
    model_file: int  # what `save_model` writes
    checkpoint: int  # the weights that are trained, and the optimiser's state

    @property
    def held(self) -> int:
        """What is there between two passes."""
        return self.weights + self.gradients + self.optimizer + self.reference

    def parts(self) -> dict[str, int]:
        """The bytes by name."""
        return {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "reference")}


def compose(model: str, config: TrainingConfig, *, adapter: Any, scores: bool, device: torch.device) -> Composition:
    """What the model would take on the device, found without loading it. Raises ModelError where there is none."""
    shape, base_adapter = _shape(model, config.trust_remote_code)
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    if scores:
        shape.num_labels = 1
    with torch.device("meta"):
        empty: Any = kind.from_config(shape, trust_remote_code=config.trust_remote_code)
        base = sum(p.numel() for p in empty.parameters())
        if adapter is not None or base_adapter is not None:
            task = TaskType.SEQ_CLS if scores else TaskType.CAUSAL_LM
            empty = apply_lora(empty, base_adapter or _plainly_started(adapter), task_type=task)
    asked = config.dtype if config.dtype != "auto" else shape.get_text_config().dtype or torch.float32
    dtype = as_dtype(asked) if asked is not None else choose_dtype(shape, device)
    shapes = [(tuple(p.shape), p.requires_grad) for p in empty.parameters()]
    return composition(
        shapes, bytes_each=dtype.itemsize, optim=config.optim, keeps_start=_keeps_start(config), adapted=base,
        save_only_model=config.save_only_model, vocabulary=shape.get_text_config().vocab_size,
    )  # fmt: skip


def composition(
    shapes: list[tuple[tuple[int, ...], bool]],
    *,
    bytes_each: int,
    optim: str,
    keeps_start: bool,
    adapted: int | None = None,
    save_only_model: bool = False,
    vocabulary: int = 0,
) -> Composition:
    """The same of (shape, is trained) for each parameter; `adapted` is how many the model has without its adapter."""
    trained = [shape for shape, is_trained in shapes if is_trained]
    count = sum(math.prod(shape) for shape, _ in shapes)
    learned = sum(map(math.prod, trained))
    plain = count if adapted is None else adapted
    each = bytes_each if plain == count else 4  # an adapter is float32 whatever it lies on
    state = round(each * sum(_state(shape, optim) for shape in trained))
    weights = bytes_each * (count - learned) + each * learned
    return Composition(
        parameters=count,
        trained=learned,
        vocabulary=vocabulary,
        weights=weights,
        gradients=each * learned,
        optimizer=state,
        reference=each * learned if keeps_start else 0,
        model_file=bytes_each * plain,
        checkpoint=(weights if plain == count else each * learned) + (0 if save_only_model else state),
    )


def _state(shape: tuple[int, ...], optim: str) -> float:
    """Numbers that the optimiser keeps for a parameter."""
    if optim == "adafactor":
        rest = math.prod(shape[:-2])
        return rest * (shape[-2] + shape[-1]) if len(shape) >= 2 else math.prod(shape)
    return _MOMENTS.get(optim, _ADAMS) * math.prod(shape)


def _plainly_started(adapter: Any) -> Any:
    """The adapter's settings with a start that needs no weights, of which there are none; its sizes are the same."""
    if isinstance(adapter, Mapping) and adapter.get("task_type") == "CAUSAL_LM":
        adapter = {name: value for name, value in adapter.items() if name not in ("init_lora_weights", "task_type")}
    return adapter


def _keeps_start(config: Any) -> bool:
    """Whether the run keeps the weights it started from beside those it trains."""
    online = getattr(config, "track_kl", False) or getattr(config, "reference_needed", False)
    return bool(
        online or getattr(config, "sync_ref_model", False) or config.gate is not None or config.drift_steps is not None
    )


def _shape(model: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model's configuration; of an adapter's directory that of its base, and the adapter's settings."""
    directory = local_directory(model)
    adapter = None
    if directory is not None and (file := directory / "adapter_config.json").exists():
        from peft import PeftConfig

        adapter = PeftConfig.from_pretrained(str(directory))
        model = str(read_json(file).get("base_model_name_or_path"))
    name = str(local_directory(model) or model)
    return pretrained(
        name, "model", lambda: AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    ), adapter
