"""`posttrain data`: making data worth training on. Finds the command and runs it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from posttrain.errors import ConfigError, nearest

# name -> (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "convert": ("posttrain.cli.data_convert", "any format that is read here into any other"),
    "filter": ("posttrain.cli.data_filter", "leave out what is not worth training on; duplicates, contamination"),
    "distill": ("posttrain.cli.data_distill", "let a stronger model answer prompts"),
    "reject-sample": ("posttrain.cli.data_reject_sample", "several answers to each prompt, the best kept"),
    "pairs correct": ("posttrain.cli.data_pairs", "preference pairs: a model's answers against their correction"),
    "pairs sample": ("posttrain.cli.data_pairs", "preference pairs: a model's better answers against its worse ones"),
    "label": ("posttrain.cli.data_label", "a page on which people judge answers"),
    "lint": ("posttrain.cli.data_lint", "what would go wrong in training on these rows"),
}

_ABOUT = """\
Usage: posttrain data COMMAND INPUT... --output FILE [flags]

Makes data worth training on. Inputs are .jsonl, .json, .csv, .tsv or .parquet files, also with .gz, saved
datasets, or - for standard input. Beside the output lie FILE.rejects.jsonl, every row that was left out with
its reason, and FILE.card.json, what was done. A command that was interrupted goes on when it is given again.

Commands:
"""
_EXAMPLES = """
`posttrain data COMMAND --help` tells more.

Examples:
  posttrain data lint chat.jsonl --model MODEL --against test.jsonl
  posttrain data filter chat.jsonl --output clean.jsonl --near_duplicates --decontaminate test.jsonl"""


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command of `posttrain data`."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {help}" for name, (_, help) in COMMANDS.items()]
        print("\n".join([_ABOUT + lines[0], *lines[1:], _EXAMPLES]))
        return 0
    name, rest = arguments[0], list(arguments[1:])
    if name == "pairs":  # its module is told which of the two
        name = f"pairs {rest[0]}" if rest and not rest[0].startswith("-") else "pairs correct"
    elif name not in COMMANDS:
        raise ConfigError(f"no command 'data {name}'{nearest(name, COMMANDS)} (commands: {', '.join(COMMANDS)})")
    if name not in COMMANDS:
        raise ConfigError(f"no command 'data {name}'; pairs are made with `pairs correct` or `pairs sample`")
    module, _ = COMMANDS[name]
    code: int = importlib.import_module(module).run(rest)
    return code


def words(arguments: Sequence[str], name: str = "inputs") -> list[str]:
    """The arguments with the leading words, `-` among them, turned into one flag: `A B` into `--inputs A B`."""
    rest = list(arguments)
    count = next((i for i, word in enumerate(rest) if word.startswith("-") and word != "-"), len(rest))
    return [f"--{name}", *rest[:count], *rest[count:]] if count else rest
