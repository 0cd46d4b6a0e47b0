"""`posttrain`: finds the command, runs it, and turns errors into one message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from posttrain.errors import ConfigError, GateError, PosttrainError, nearest

# name -> (module, function, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("posttrain.cli.demo", "run", "see a base model become an assistant and change its name"),
    "run": ("posttrain.cli.run", "run", "run a recipe: stages that build on each other"),
    "sft": ("posttrain.cli.train", "sft", "supervised fine-tuning on conversations or completions"),
    "dpo": ("posttrain.cli.train", "dpo", "preference training on chosen and rejected answers"),
    "cpo": ("posttrain.cli.train", "cpo", "the same without a reference model: CPO and SimPO"),
    "orpo": ("posttrain.cli.train", "orpo", "fine-tuning and preferences in one: ORPO"),
    "kto": ("posttrain.cli.train", "kto", "the same on single answers marked good or bad: KTO"),
    "bco": ("posttrain.cli.train", "bco", "the same as a classifier of good and bad answers: BCO"),
    "reward": ("posttrain.cli.train", "reward", "a reward model from chosen and rejected answers"),
    "grpo": ("posttrain.cli.train", "grpo", "online reinforcement learning with rewards of your own"),
    "ppo": ("posttrain.cli.train", "ppo", "the same with a value model: an advantage for every token"),
    "data": ("posttrain.cli.data", "run", "make data worth training on: convert, filter, distill, pair, lint ..."),
    "offline-rl": ("posttrain.cli.train", "offline_rl", "reinforcement learning from answers that have rewards"),
    "sample": ("posttrain.cli.sample", "run", "answer a file of prompts, with a model here or behind an endpoint"),
    "chat": ("posttrain.cli.chat", "run", "talk to a model, or to two at once"),
    "grade": ("posttrain.cli.grade", "run", "try a reward on the completions in a file"),
    "evaluate": ("posttrain.cli.evaluate", "run", "measure a model on tasks: files, definitions, benchmarks"),
    "compare": ("posttrain.cli.compare", "run", "two models on the same questions, and a gate that decides"),
    "report": ("posttrain.cli.report", "run", "one page on a run or pipeline: gains, losses, curves, answers"),
    "config": ("posttrain.cli.config", "run", "what a field is, schemas for editors, files of other tools"),
    "doctor": ("posttrain.cli.doctor", "run", "what this machine has, and what a recipe will need on it"),
}

_EXAMPLES = """\
Examples:
  posttrain demo
  posttrain sft --model MODEL --train_dataset chat.jsonl --output_dir out
  posttrain run recipe.yaml sft.learning_rate=1e-4
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 2 for an error the user can mend, 3 or 4 for what a gate decided, 130 after Ctrl-C."""
    # pydantic looks through every installed package for plugins, which takes longer than the rest of --help.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except GateError as error:
        print(f"posttrain: not promoted: {error}", file=sys.stderr)
        return 4
    except PosttrainError as error:
        print(f"posttrain: {error}", file=sys.stderr)
        return 2
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        need = "; a directory is needed there" if isinstance(error, FileExistsError | NotADirectoryError) else ""
        print(f"posttrain: {error.filename}: {error.strerror}{need}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nposttrain: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[1] in COMMANDS:
            return _dispatch([arguments[1], "--help"])
        print(_help())
        return 0
    name, *rest = arguments
    if name in ("--version", "-V", "version"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"posttrain {version('posttrain')}")
        except PackageNotFoundError:
            print("posttrain, run from its source")
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}{nearest(name, COMMANDS)} (commands: {', '.join(COMMANDS)})")
    module, function, _ = COMMANDS[name]
    code: int = getattr(importlib.import_module(module), function)(rest)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help}" for name, (_, _, help) in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: posttrain COMMAND [...]",
            "",
            "Post-training of language models: curate the data, train, measure what was gained and lost.",
            "",
            "Commands:",
            *lines,
            "",
            "`posttrain COMMAND --help` tells more; `posttrain --version` tells the version.",
            "",
            _EXAMPLES.rstrip(),
        ]
    )
