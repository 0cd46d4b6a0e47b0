"""Fixtures every test may use; `tiny.py` builds what they give."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip whose reason names something in the variable REQUIRE (commas between) is a failure."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    return _refuse_skip((yield))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _refuse_skip(report: Report) -> Report:
    reason = str(report.longrepr).lower()
    for name in filter(None, os.environ.get("REQUIRE", "").split(",")):
        if report.skipped and name.lower() in reason:
            report.outcome, report.longrepr = "failed", f"REQUIRE={name}, but: {report.longrepr}"
    return report
