"""Names that older tutorials import and that nothing here needs."""

from __future__ import annotations

from typing import Any

from posttrain.errors import ConfigError


class DataCollatorForCompletionOnlyLM:
    """Importable, because tutorials import it; refused when used, because completions are found by position here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise ConfigError(
            "DataCollatorForCompletionOnlyLM is not needed: SFTTrainer trains completions and assistant turns only, "
            "which it finds by position. Leave the collator out, and give rows with prompt and completion, or messages."
        )
