"""`posttrain doctor`: what a question about this machine should be asked with."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from posttrain.errors import ConfigError

_HELP = """\
Usage: posttrain doctor

Shows versions, device, threads, and which optional packages are missing. 
Its output belongs into a bug report. The exit code is 1 when a package that posttrain needs is missing.

Example:
  posttrain doctor"""

_NEEDED = (
    "torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "tokenizers", "jinja2", "numpy",
    "scipy", "pydantic", "PyYAML", "rich",
)  # fmt: skip
_OPTIONAL = {"trl": "the side-by-side tests and benchmarks", "pytest": "the tests"}


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 when everything that is needed is there."""
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    if arguments:
        raise ConfigError(f"posttrain doctor takes no {' '.join(arguments)!r}; call it alone")
    print(f"python        {platform.python_version()} on {platform.platform()}")
    missing = []
    for name in ("posttrain", *_NEEDED):
        installed = _version(name)
        print(f"{name:<13} {installed or 'MISSING'}")
        if installed is None and name != "posttrain":
            missing.append(name)
    for name, use in _OPTIONAL.items():
        print(f"{name:<13} {_version(name) or f'not installed (optional: {use})'}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"cores         {cores}; OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    if importlib.util.find_spec("torch") is not None:
        _device()
    if missing:
        print(f"Missing: {', '.join(missing)}. Install posttrain again with pip, which brings them.")
    return 1 if missing else 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> None:
    import torch

    from posttrain.models.compiled import compiled
    from posttrain.models.decoding_native import SOURCE

    print(f"torch threads {torch.get_num_threads()}")
    library, why = compiled(SOURCE)
    print(f"decoding step {f'in Python: {why}' if library is None else 'compiled'}")
    if not torch.cuda.is_available():
        print("device        cpu")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "with bf16" if torch.cuda.is_bf16_supported() else "without bf16"
        print(f"device        {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
