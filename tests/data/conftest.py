"""A tokenizer with a chat template for the tests of this directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from chats import CHATML


@pytest.fixture
def chat_tokenizer(tiny_tokenizer: Any) -> Any:
    """The tiny tokenizer with the ChatML template."""
    tiny_tokenizer.chat_template = CHATML
    return tiny_tokenizer


@pytest.fixture
def real_data() -> Path:
    """The folder of public datasets that POSTTRAIN_DATA names."""
    if not os.environ.get("POSTTRAIN_DATA"):
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    return Path(os.environ["POSTTRAIN_DATA"])
