"""The chat template that `chat_template_path` asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.data.templates import TEMPLATES, named_template
from posttrain.errors import ConfigError, nearest
from posttrain.models.loading import load_tokenizer


def chat_template(asked: str, tokenizer: Any) -> str:
    """The template in a file, of the tokenizer in a directory or on the hub, or of a name in `TEMPLATES`.

    Raises ConfigError where there is none, and for a name whose tokens this tokenizer lacks.
    """
    place = Path(asked)
    if place.is_file():
        return place.read_text(encoding="utf-8")
    if asked in TEMPLATES and not place.is_dir():
        return named_template(asked, tokenizer)
    on_the_hub = asked.count("/") == 1 and asked[0] not in "./~" and not place.suffix
    if not place.is_dir() and not on_the_hub:
        raise ConfigError(
            f"chat_template_path={asked!r} is neither a file, nor a tokenizer's directory, nor one of the names "
            f"{', '.join(TEMPLATES)}{nearest(asked, TEMPLATES)}"
        )
    template = load_tokenizer(asked).chat_template
    if not template:
        raise ConfigError(f"chat_template_path={asked!r}: the tokenizer there has no chat template")
    return str(template)
