"""`posttrain demo`: the built-in story, told with its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError, nearest

_HELP = """\
Usage: posttrain demo [--output_dir DIR] [--seed N] [--seeds K] [--full]

Trains the tiny base model that ships with the package: SFT makes it an assistant, DPO changes its name from
Qwen to Deep Qwen. The same questions are put to all three models, held-out questions measure what was gained
and lost. It needs no network and takes under three minutes on two cores.

  --output_dir DIR  where models, logs and answers go [runs/demo]
  --seed N          seed of the run [0]
  --seeds K         run K seeds, beginning with N, and show means with intervals [1]
  --full            go on with PPO, a reward model, PPO with it, and offline reinforcement learning;
                    compares them with GRPO at equal sampled answers, and takes about ten minutes more

Example:
  posttrain demo
  posttrain demo --seeds 3 --output_dir runs/three"""

_FLAGS = {"output_dir": str, "seed": int, "seeds": int}


def run(arguments: Sequence[str]) -> int:
    """The exit code of the demo."""
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    given: dict[str, Any] = {"output_dir": "runs/demo", "seed": 0, "seeds": 1, "full": False}
    rest = list(arguments)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if name == "full" and not equals:
            given["full"] = True
            continue
        if name not in _FLAGS:
            known = [*(f"--{known}" for known in _FLAGS), "--full"]
            raise ConfigError(f"unknown flag {flag!r}{nearest(flag, known)} (flags: {', '.join(known)})")
        if not equals:
            if not rest:
                raise ConfigError(f"--{name} needs a value after it")
            text = rest.pop(0)
        try:
            given[name] = _FLAGS[name](text)
        except ValueError:
            raise ConfigError(f"--{name}={text!r} is not allowed; it takes a whole number") from None
    if given["seed"] < 0 or given["seeds"] < 1:
        raise ConfigError("--seed takes a whole number of at least 0, --seeds one of at least 1")

    from posttrain.recipes import demo

    demo.run_demo(**given)
    return 0
