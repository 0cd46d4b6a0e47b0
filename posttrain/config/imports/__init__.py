"""Files of other tools as recipes, as far as they go."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.config.imports.axolotl import from_axolotl
from posttrain.config.imports.llamafactory import from_llamafactory
from posttrain.config.imports.translation import Imported
from posttrain.config.yaml_file import read_mapping
from posttrain.errors import ConfigError, nearest

TOOLS: Mapping[str, Callable[[Mapping[str, Any], str], Imported]] = {
    "llamafactory": from_llamafactory,
    "axolotl": from_axolotl,
}
_TELLING = {"axolotl": "base_model", "llamafactory": "model_name_or_path"}  # a key that the tool's files have


def import_file(path: str | os.PathLike[str], tool: str | None = None) -> Imported:
    """The stage that a file of the tool describes; the tool is told by its keys where it is not named.

    Raises ConfigError for a file of neither, and for what has no counterpart at all.
    """
    source = os.fspath(path)
    given, _ = read_mapping(path)
    if tool is None:
        tool = next((name for name, key in _TELLING.items() if key in given), None)
    if tool is None:
        raise ConfigError(
            f"{source}: neither base_model (Axolotl) nor model_name_or_path (LLaMA-Factory) is there; write --from "
            f"{' or --from '.join(TOOLS)}"
        )
    if tool not in TOOLS:
        raise ConfigError(f"no tool {tool!r}{nearest(tool, TOOLS)} (there are {', '.join(TOOLS)})")
    return TOOLS[tool](given, source)
