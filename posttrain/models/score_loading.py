"""Reward models by path or name, and language models given a score head to become one."""

from __future__ import annotations

import copy
import math
import os
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from posttrain.chat import special_ids, stop_tokens
from posttrain.errors import ModelError
from posttrain.models.loading import (
    PAD_NAMES,
    accelerator,
    adapter_base,
    as_dtype,
    check_architecture,
    choose_dtype,
    hub_options,
    load_model,
)
from posttrain.models.locating import check_model_directory, local_directory, read_json
from posttrain.models.new_tokens import rows_for_adapter
from posttrain.models.pretrained import pretrained
from posttrain.models.quantisation import is_quantised, quantisation
from posttrain.models.quiet import no_load_report

START = 0.01  # of the size of a hidden state's numbers: what a fresh head's scores are at most about


def load_score_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    **init_kwargs: Any,
) -> PreTrainedModel | PeftModel:
    """A model with one score, in eval mode: a reward model, or a language model with a fresh score head.

    `dtype` and `device` are those of `load_model`. Adapter directories are put onto their base model; the adapter of a
    language model is merged first. A fresh head is drawn by `fresh_head`. Raises ModelError for a classifier of several
    classes, for architectures without a classifier, and where weights are missing.
    """
    directory = local_directory(name_or_path)
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code, **init_kwargs}
    if directory is not None and (directory / "adapter_config.json").exists():
        if read_json(directory / "adapter_config.json").get("task_type") != "SEQ_CLS":
            adapted: Any = load_model(directory, **options)
            return score_model_of(adapted.merge_and_unload())
        base = load_score_model(adapter_base(directory), **options)
        rows_for_adapter(base, directory)
        return pretrained(
            str(directory), "adapter", lambda: PeftModel.from_pretrained(base, str(directory), is_trainable=True)
        ).eval()
    if directory is not None:
        check_model_directory(directory)
    name = str(directory or name_or_path)
    hub = hub_options(init_kwargs)
    config = pretrained(
        name, "model", lambda: AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    )
    _check(name, config, trust_remote_code)
    place = torch.device(device or accelerator() or "cpu")
    asked = config.get_text_config().dtype or torch.float32 if dtype == "auto" else dtype
    weights = as_dtype(asked) if asked is not None else choose_dtype(config, place)
    if (quantised := quantisation(init_kwargs, place)) is not None:
        init_kwargs |= {"quantization_config": quantised, "device_map": {"": place}}
    with no_load_report():  # the new head and the old one's weights are expected; what is missing is looked at below
        loaded: Any = pretrained(
        name,
        "model",
        lambda: AutoModelForSequenceClassification.from_pretrained(
            name, dtype=weights, trust_remote_code=trust_remote_code, num_labels=1, output_loading_info=True,
            **init_kwargs,
        ),
    )  # fmt: skip
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing == ["score.weight"] and not is_reward_model(config):
        fresh_head(model)
    elif missing:
        raise ModelError(
            f"{name!r} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}), which would be random. Its config.json and its weights do not"
            " belong together."
        )
    return (model if is_quantised(model) else model.to(place)).eval()


def is_reward_model(config: PreTrainedConfig) -> bool:
    """Whether the configuration was saved with a classifier."""
    return any(kind.endswith("ForSequenceClassification") for kind in config.architectures or [])


def score_model_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """The model itself where it has a score head of one number, else its decoder under a fresh one.

    The decoder is shared with the language model that was given: training changes it. Raises ModelError for a model
    with an adapter of another kind, and for what has neither.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(getattr(plain, "score", None), nn.Module):
        if plain.config.num_labels != 1:
            raise ModelError(_classes(type(plain).__name__, plain.config.num_labels))
        return model
    if isinstance(model, PeftModel):
        raise ModelError(
            "the model has the adapter of a language model. Merge it first: model = model.merge_and_unload()."
        )
    config = copy.deepcopy(plain.config)
    config.num_labels = 1
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise ModelError(_no_classifier(type(plain).__name__))
    with torch.device("meta"):
        made: Any = AutoModelForSequenceClassification.from_config(config, dtype=plain.dtype)
    setattr(made, made.base_model_prefix, plain.base_model)
    made.config._name_or_path = plain.config._name_or_path
    head = made.score
    made.score = nn.Linear(
        head.in_features, 1, bias=head.bias is not None, dtype=plain.dtype, device=next(plain.parameters()).device
    )
    if left := [name for name, value in made.named_parameters() if value.is_meta]:
        raise ModelError(f"{type(made).__name__} has more than a decoder and a score head ({left[0]}): give its path.")
    made.set_attn_implementation(plain.config._attn_implementation)
    fresh_head(made)
    made.eval()
    score_model: PreTrainedModel = made
    return score_model


@torch.no_grad()
def fresh_head(model: Any) -> None:
    """Draws the score head anew, so that every score starts near zero.

    The weights are normal with deviation 0.01 / √H, from torch's global random state: with the hidden states of a final
    norm, of about 1 each, scores are about 0.01, every preference starts at one half, and yet the body's gradient has a
    direction from the first step on, which a head of zeros would not give it.
    """
    head = model.score
    head.weight.normal_(0.0, START / math.sqrt(head.weight.shape[1]))
    if head.bias is not None:
        head.bias.zero_()


def settle_pad_token(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, *, asked: bool = False
) -> list[str]:
    """What was changed, a sentence each, so that model and tokenizer agree on a pad token and it ends no row.

    transformers reads the score at the last token that is not the pad token. A reward model's own pad token is
    kept, for its scores were learnt with it; without one, a token is taken that no row ends with, or the score would be
    read before the end. `asked` keeps the tokenizer's.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    shape = plain.config.get_text_config()
    vocabulary, notes = tokenizer.get_vocab(), []
    ends = {*stop_tokens(tokenizer), tokenizer.eos_token_id}
    its_own = shape.pad_token_id if is_reward_model(plain.config) else None
    if its_own is not None and not asked:
        token = tokenizer.convert_ids_to_tokens(its_own)
    else:
        names = [tokenizer.pad_token, *PAD_NAMES, *map(tokenizer.convert_ids_to_tokens, sorted(special_ids(tokenizer)))]
        fitting = [name for name in names if name in vocabulary and vocabulary[name] not in ends]
        token = tokenizer.pad_token if asked or not fitting else fitting[0]
    if token not in vocabulary:
        raise ModelError(
            f"the model's config names {its_own} as its pad token, which the tokenizer does not have. Pass the model's "
            "own tokenizer as processing_class."
        )
    if token != tokenizer.pad_token:
        notes.append(f"the pad token is {token!r}: with {tokenizer.pad_token!r} the score would be read elsewhere")
    if vocabulary[token] in ends:
        notes.append(f"the pad token {token!r} ends rows too: the score is read at the token before it")
    tokenizer.pad_token = token
    shape.pad_token_id = plain.config.pad_token_id = vocabulary[token]
    return notes


def _check(name: str, config: PreTrainedConfig, trust_remote_code: bool) -> None:
    if is_reward_model(config):
        if config.num_labels != 1:
            raise ModelError(_classes(repr(name), config.num_labels))
        return
    check_architecture(name, config, trust_remote_code=trust_remote_code)
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES and not trust_remote_code:
        raise ModelError(_no_classifier(f"{name!r} ({config.model_type})"))


def _classes(name: str, count: int | None) -> str:
    return (
        f"{name} tells {count} classes apart: a reward model gives one number. Give a reward model (num_labels=1) or a "
        "language model."
    )


def _no_classifier(name: str) -> str:
    return (
        f"transformers has no sequence classifier for {name}. Start from another architecture, such as Qwen or Llama."
    )
