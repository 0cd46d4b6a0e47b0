"""A trained model written as an ordinary model directory that any server loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.errors import ModelError
from posttrain.models.loading import load_model, load_tokenizer
from posttrain.models.merging import export_adapter, merge_and_save
from posttrain.models.quantisation import is_quantised
from posttrain.models.stopping import set_stop_tokens


def save_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, directory: str | Path
) -> list[str]:
    """What had to be changed to make it loadable, a sentence each; mostly nothing.

    Writes weights (safetensors), config, generation config with the tokens that end an answer, and the tokenizer
    with its chat template. A model with an adapter is written merged, with the adapter alone in `adapter/`; one with
    quantised weights as its adapter only, for they cannot take up what it learned: `merge_adapter` merges it.
    """
    directory = Path(directory)
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    notes = _make_saveable(plain)
    if tokenizer is not None and plain.can_generate():  # a reward model writes nothing
        set_stop_tokens(plain, tokenizer)
    if isinstance(model, PeftModel) and is_quantised(model):
        export_adapter(model, directory)
        notes.append(
            f"The weights are quantised, so {directory} holds the adapter alone. To merge it into the weights as they "
            f"were before: posttrain.models.saving.merge_adapter({str(directory)!r}, OUTPUT)."
        )
    elif isinstance(model, PeftModel):
        merge_and_save(model, directory)
    else:
        model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return notes


def merge_adapter(adapter: str | Path, directory: str | Path, **init_kwargs: Any) -> list[str]:
    """Merges the adapter in a directory into its base model and writes an ordinary model directory; as `save_model`.

    The base is read as `init_kwargs` say. An adapter that was trained on quantised weights has learned to make good
    their errors, too: with the `quantization_config` of its training it is merged into the weights as that rounds them.
    """
    quantised = "quantization_config" in init_kwargs
    model: Any = load_model(adapter, **init_kwargs)
    if not isinstance(model, PeftModel):
        raise ModelError(f"{str(adapter)!r} is no adapter: it has no adapter_config.json.")
    if quantised:
        base = model.unload().dequantize()
        model = PeftModel.from_pretrained(base, str(adapter))
    return save_model(model, load_tokenizer(adapter), directory)


def _make_saveable(model: PreTrainedModel) -> list[str]:
    """transformers refuses to write a generation config that contradicts itself, which many models come with.

    A training of hours must not end in that refusal: what it is about is dropped, the tokens are kept.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return []
    try:
        config.validate(strict=True)
    except ValueError as error:
        kept = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id", "max_length")}
        model.generation_config = GenerationConfig(**kept)
        return [f"the model's generation config contradicted itself and was reduced to its tokens: {error}"]
    return []
