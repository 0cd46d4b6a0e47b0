"""Words without a flag at the beginning of a command line."""

from __future__ import annotations

from collections.abc import Sequence


def positional(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments with the leading words turned into the flags of these names: `MODEL` into `--model MODEL`."""
    rest = list(arguments)
    flags: list[str] = []
    for name in names:
        if not rest or rest[0].startswith("-"):
            break
        flags.append(f"--{name}={rest.pop(0)}")
    return flags + rest
