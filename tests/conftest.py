"""Fixtures every test may use; `tiny.py` builds what they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import build_model, build_tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`make_tokenizer(pad_token=None, ...)` builds such tokenizers with other special tokens."""
    return build_tokenizer


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the test's own, free to change."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model("llama", seed=0, **config)` builds a model of the test's own."""
    return build_model


@pytest.fixture
def tiny_model_dir(tmp_path: Path) -> Callable[..., str]:
    """`tiny_model_dir("llama")` saves such a model with the tokenizer and gives its directory."""

    def save(arch: str = "qwen2", *, seed: int = 0, **overrides: object) -> str:
        directory = tmp_path / f"{arch}-{seed}"
        build_model(arch, seed=seed, **overrides).save_pretrained(directory)
        build_tokenizer().save_pretrained(directory)
        return str(directory)

    return save
