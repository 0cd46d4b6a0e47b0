"""Models and tokenizers by path or name, ready to be trained: what is missing is chosen and said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from posttrain.chat import CHATML, default_template, special_ids, stop_tokens
from posttrain.errors import ModelError, nearest
from posttrain.models.locating import (
    check_model_directory,
    has_tokenizer,
    local_directory,
    near_directory,
    read_json,
)
from posttrain.models.lora import embedding_rows
from posttrain.models.new_tokens import rows_for_adapter
from posttrain.models.pretrained import pretrained
from posttrain.models.quantisation import is_quantised, quantisation
from posttrain.models.stopping import set_stop_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<|finetune_right_pad_id|>", "<unk>")
BYTES_PER_PARAMETER = 16  # weights, gradients and AdamW's two moments in float32


def load_model_and_tokenizer(
    model_name: str, use_gpu: bool = False, **init_kwargs: Any
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer, with a pad token, a chat template and the tokens that end an answer.

    Prints what it chose. `init_kwargs` are those of `load_model` and of transformers' `from_pretrained`.
    """
    trust = bool(init_kwargs.pop("trust_remote_code", False))
    tokenizer = load_tokenizer(model_name, trust_remote_code=trust, **hub_options(init_kwargs))
    if use_gpu and (device := accelerator()) is None:
        raise ModelError("use_gpu=True, but torch sees no GPU here. Use use_gpu=False, or install torch for your GPU.")
    init_kwargs.setdefault("device", device if use_gpu else "cpu")
    model = load_model(model_name, trust_remote_code=trust, **init_kwargs)
    notes = prepare_tokenizer(tokenizer, model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{model_name}: {parameters / 1e6:,.1f}M parameters, {_name(model.dtype)}, on {model.device}")
    for note in notes:
        print(f"  {note}")
    return model, tokenizer


def load_tokenizer(
    name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, **hub: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer in the directory or of that name, as it is; `prepare_tokenizer` fills in what it lacks.

    An adapter directory without one gives its base model's. `hub` are `hub_options`. Raises ModelError where there is
    none.
    """
    directory = local_directory(name_or_path)
    if directory is not None and not has_tokenizer(directory):
        if (directory / "adapter_config.json").exists():
            return load_tokenizer(adapter_base(directory), trust_remote_code=trust_remote_code, **hub)
        raise ModelError(
            f"{str(directory)!r} has no tokenizer (tokenizer.json). Save one into it with"
            " tokenizer.save_pretrained(directory), or give another as processing_class."
        )
    name = str(directory or name_or_path)
    tokenizer = pretrained(
        name, "tokenizer", lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    )
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise ModelError(f"the tokenizer of {name!r} has no vocabulary but its special tokens: files are missing.")
    return tokenizer


def hub_options(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords of `from_pretrained` that say which files are meant: they hold for the tokenizer, too."""
    return {name: init_kwargs[name] for name in ("revision", "cache_dir", "token") if name in init_kwargs}


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    **init_kwargs: Any,
) -> PreTrainedModel | PeftModel:
    """A causal language model by path or name, in eval mode; a directory with an adapter is put onto its base model.

    `dtype` is that of the weights; "auto" is the one they were saved in, None is float32, and bfloat16 on a GPU whose
    memory would not hold the training state in float32. `device` None is the GPU where there is one. Raises ModelError
    for what cannot be a policy: encoders, encoder-decoders, classifiers, and weights of which a part is missing and
    would be random. A `quantization_config`, or `load_in_4bit`, is that of bitsandbytes.
    """
    directory = local_directory(name_or_path)
    if directory is not None and (directory / "adapter_config.json").exists():
        base = load_model(
            adapter_base(directory),
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            **init_kwargs,
        )
        if isinstance(base, PeftModel):
            raise ModelError(f"the adapter {str(directory)!r} lies on another adapter. Merge that one first.")
        rows_for_adapter(base, directory)
        return pretrained(
            str(directory),
            "adapter",
            lambda: PeftModel.from_pretrained(base, str(directory), is_trainable=True),
        ).eval()
    if directory is not None:
        check_model_directory(directory)
    name = str(directory or name_or_path)
    hub = hub_options(init_kwargs)
    config = pretrained(
        name, "model", lambda: AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    )
    check_architecture(name, config, trust_remote_code=trust_remote_code)
    place = torch.device(device or accelerator() or "cpu")
    asked = dtype if dtype is not None else init_kwargs.pop("dtype", init_kwargs.pop("torch_dtype", None))
    if asked == "auto":
        asked = config.get_text_config().dtype or torch.float32
    weights = as_dtype(asked) if asked is not None else choose_dtype(config, place)
    quantised = quantisation(init_kwargs, place)
    if quantised is not None:  # such weights are put where they belong as they are read
        init_kwargs |= {"quantization_config": quantised, "device_map": {"": place}}
    loaded: Any = pretrained(
        name,
        "model",
        lambda: AutoModelForCausalLM.from_pretrained(
            name, dtype=weights, trust_remote_code=trust_remote_code, output_loading_info=True, **init_kwargs
        ),
    )
    model, found = loaded
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"{name!r} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}), which would be random. Its config.json and its weights do not"
            " belong together, or it is not a language model."
        )
    return (model if is_quantised(model) else model.to(place)).eval()


def adapter_base(directory: Path) -> str:
    """The model that an adapter directory was trained on, by its adapter_config.json. Raises ModelError if gone."""
    base = read_json(directory / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{str(directory / 'adapter_config.json')!r} names no base model. Write its path or name there as"
            " 'base_model_name_or_path'."
        )
    try:
        local_directory(base)
    except ModelError as error:
        raise ModelError(
            f"the adapter {str(directory)!r} belongs to the base model {base!r}, which is not there"
            f"{near_directory(Path(base))}. Put it back, or change 'base_model_name_or_path' in adapter_config.json."
        ) from error
    return base


def check_architecture(name: str, config: PreTrainedConfig, *, trust_remote_code: bool = False) -> None:
    """Raises ModelError unless the configuration is that of a decoder which predicts the next token."""
    kinds = list(config.architectures or [])
    shown = ", ".join(kinds) or config.model_type
    needed = "A causal language model is needed (…ForCausalLM), such as 'Qwen/Qwen3-0.6B'."
    if config.is_encoder_decoder:
        raise ModelError(f"{name!r} is an encoder-decoder ({shown}). {needed}")
    if trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"{name!r} has the architecture {shown}, which does not predict the next token. {needed}")
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    decoders = {causal} if isinstance(causal, str) else set(causal)
    # A bare "...Model" was saved without its head; whether the head is tied shows when the weights are loaded.
    if kinds and not any(kind in decoders or kind.endswith(("ForCausalLM", "LMHeadModel", "Model")) for kind in kinds):
        for ending, what in (
            ("ForMaskedLM", "an encoder that fills in masked words"),
            ("ForPreTraining", "an encoder in pretraining"),
            ("ForSequenceClassification", "a classifier or reward model"),
            ("ForTokenClassification", "a classifier of tokens"),
            ("ForQuestionAnswering", "a marker of passages"),
        ):
            if any(kind.endswith(ending) for kind in kinds):
                raise ModelError(f"{name!r} is {what} ({shown}), not a language model. {needed}")


def prepare_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | PeftModel | None = None
) -> list[str]:
    """What was chosen, a sentence each, after giving the tokenizer what it lacks: eos, pad token, chat template.

    With a model, its generation config gets the tokens that end an answer, and its embedding is checked to have a
    row for every token in use. A pad token equal to eos does no harm: what is trained is known by position.
    """
    notes = []
    if not tokenizer.chat_template:
        tokenizer.chat_template = default_template(tokenizer)
        kind = "ChatML" if tokenizer.chat_template.endswith(CHATML) else "a plain one (System:, User:, Assistant:)"
        notes.append(f"no chat template was set: {kind} is used")
    if tokenizer.eos_token_id is None:
        if not (stops := stop_tokens(tokenizer)):
            raise ModelError(
                "the tokenizer has no eos token and its chat template ends an answer with no special token, so no"
                " answer would ever stop. Set tokenizer.eos_token."
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stops[0])
        notes.append(f"no eos token was set: {tokenizer.eos_token!r}, which ends an answer, is used")
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        ends = {tokenizer.convert_ids_to_tokens(stop) for stop in stop_tokens(tokenizer)}
        named = [name for name in PAD_NAMES if name in vocabulary and name not in ends]
        tokenizer.pad_token = named[0] if named else tokenizer.eos_token
        notes.append(f"no pad token was set: {tokenizer.pad_token!r} is used")
    if model is not None:
        notes += check_vocabulary(tokenizer, model)
        stops = set_stop_tokens(model, tokenizer)
        notes.append(f"answers stop at {', '.join(map(str, tokenizer.convert_ids_to_tokens(stops)))}")
    return notes


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | PeftModel) -> list[str]:
    """A note on special tokens beyond the model's embedding; ModelError where tokens in use lie beyond it.

    Some models come with a tokenizer that has a few special tokens more than they have rows (Gemma 3's image
    token); as long as no text contains them, they do no harm.
    """
    rows = embedding_rows(model)
    beyond = {token: name for name, token in tokenizer.get_vocab().items() if token >= rows}
    if not beyond:
        return []
    special = special_ids(tokenizer)
    used = {*stop_tokens(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id}
    bad = [token for token in beyond if token in used or token not in special]
    if bad:
        raise ModelError(
            f"the tokenizer's ids go up to {max(beyond)}, but the model embeds only {rows} tokens: there is no row for"
            f" {', '.join(repr(beyond[token]) for token in sorted(bad)[:5])}. If the tokenizer belongs to the model"
            " and got new tokens, name them in add_special_tokens (or add_tokens) of the configuration instead, which"
            " gives them rows that are trained; else take the model's own tokenizer."
        )
    names = ", ".join(beyond[token] for token in sorted(beyond)[:5])
    return [f"the model has no embedding for {len(beyond)} special tokens, which no text may contain: {names}"]


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of that name. Raises ModelError for one that models are not trained in."""
    if isinstance(dtype, torch.dtype):
        dtype = _name(dtype)
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(dtype, dtype)
    if short not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: allowed are {', '.join(DTYPES)}{nearest(dtype, DTYPES)}")
    return DTYPES[short]


def choose_dtype(config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """The weights' dtype: float32, in which small updates are not lost; bfloat16 where a GPU's memory is too small."""
    if device.type != "cuda":
        return torch.float32
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    _, total = torch.cuda.mem_get_info(device)
    fits = parameters * BYTES_PER_PARAMETER < 0.6 * total  # the rest is for activations
    return torch.float32 if fits or not torch.cuda.is_bf16_supported() else torch.bfloat16


def accelerator() -> str | None:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
