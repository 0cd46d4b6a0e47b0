"""`posttrain config`: schemas for editors, what a field is, what a file comes to, files of other tools."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from posttrain.errors import ConfigError, nearest

# name -> (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "schema": ("posttrain.cli.config_schema", "a JSON Schema, by which an editor completes and checks YAML files"),
    "explain": ("posttrain.cli.config_explain", "what a field is, or what to write for a name of TRL"),
    "show": ("posttrain.cli.config_show", "every value of a file or recipe, and where it came from"),
    "import": ("posttrain.cli.config_import", "a recipe from a file of LLaMA-Factory or Axolotl"),
}

_ABOUT = """\
Usage: posttrain config COMMAND [...]

Commands:
"""
_EXAMPLES = """
`posttrain config COMMAND --help` tells more.

Examples:
  posttrain config schema recipe --output recipe.schema.json
  posttrain config explain max_seq_length
  posttrain config show recipe.yaml sft.learning_rate=1e-4
  posttrain config import llama3_lora_dpo.yaml --output recipe.yaml"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command of `posttrain config`."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(
            _ABOUT + "\n".join(f"  {name:<{width}}  {help}" for name, (_, help) in COMMANDS.items()) + "\n" + _EXAMPLES
        )
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise ConfigError(f"no command 'config {name}'{nearest(name, COMMANDS)} (commands: {', '.join(COMMANDS)})")
    code: int = importlib.import_module(COMMANDS[name][0]).run(rest)
    return code
