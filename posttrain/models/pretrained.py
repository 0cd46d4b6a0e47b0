"""transformers' `from_pretrained`, with what goes wrong in it told in plain words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from posttrain.errors import ModelError
from posttrain.models.locating import near_directory

T = TypeVar("T")


def pretrained(name: str, what: str, load: Callable[[], T]) -> T:
    """What `load` returns; what goes wrong in transformers' `from_pretrained` becomes a ModelError in plain words."""
    try:
        return load()
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the {what} {name!r} cannot be loaded: {_reason(name, error)}") from error


def _reason(name: str, error: Exception) -> str:
    text = str(error)
    cause = type(error.__cause__).__name__
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if cause in ("LocalEntryNotFoundError", "OfflineModeIsEnabled") or "couldn't connect" in text:
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        return (
            f"there is no directory of that name{near_directory(Path(name))}, it is not in the local cache, and {why}."
            " Download it where there is a network (hf download NAME), or give the path of a model directory."
        )
    if cause in ("RepositoryNotFoundError", "HFValidationError") or "is not a valid model identifier" in text:
        return (
            f"there is neither a directory nor a model on the hub of that name{near_directory(Path(name))}."
            " Look at the spelling; a private model needs `hf auth login`."
        )
    if cause == "GatedRepoError" or "gated repo" in text:
        return "its owner asks for consent. Accept the terms on its page and log in with `hf auth login`."
    if "trust_remote_code" in text:
        return "it brings its own Python code. Read that code, and if you trust it set trust_remote_code=True."
    if "model type" in text and "does not recognize" in text:
        return f"{first} Set trust_remote_code=True if it brings its own code, or install a newer transformers."
    if isinstance(error, SafetensorError):
        return f"a weights file is broken ({first}). Copy or download it again."
    if isinstance(error, RuntimeError) and "mismatched" in text:
        return "its weights have other shapes than its config.json (or model_init_kwargs) says."
    if isinstance(error, TypeError) and "unexpected keyword" in text:
        return f"{first}. Look at model_init_kwargs: the model does not know this setting."
    return first
