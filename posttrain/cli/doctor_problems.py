"""What is wrong with this machine or its installation, in plain words, each with what to do."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.cli.doctor_packages import Package

_GIB = 2**30
LITTLE_DISK = 2 * _GIB
LITTLE_MEMORY = 2 * _GIB
LITTLE_SHARED = 64 * 2**20
PYTHON = (3, 11)

Problem = dict[str, str]


def problems(
    machine: Mapping[str, Any], packages: list[Package], uses: Mapping[str, Any] | None, gpus: list[dict[str, Any]]
) -> list[Problem]:
    """Each as `what` and `do`, the ones that stop everything first."""
    return [
        {"what": what, "do": do}
        for what, do in [*_of_packages(packages), *_of_machine(machine), *_of_use(machine, uses, gpus)]
    ]


def _of_packages(packages: list[Package]) -> Iterator[tuple[str, str]]:
    if sys.version_info < PYTHON:
        yield f"Python {sys.version_info.major}.{sys.version_info.minor} is too old", "install Python 3.11 or newer"
    for package in packages:
        if package.version is None and not package.use:
            yield f"{package.name} is missing", package.install
        elif package.old:
            yield f"{package.name} {package.version} will not do, it must be {package.needed}", package.install


def _of_machine(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if machine["disk"]["here"] < LITTLE_DISK:
        free = machine["disk"]["here"] / _GIB
        yield f"only {free:.1f} GiB of disk are free here", "make room, or give an output_dir on another disk"
    if (available := machine["memory"]["available"]) is not None and available < LITTLE_MEMORY:
        yield (
            f"only {available / _GIB:.1f} GiB of memory are free",
            "end other programs, or give the container more; `posttrain doctor --recipe R` says what a run needs",
        )
    if (shared := machine["shared_memory"]) is not None and shared < LITTLE_SHARED:
        yield (
            f"/dev/shm has {shared / 2**20:.0f} MiB, too little for several processes",
            "start the container with --shm-size=1g",
        )
    if (place := _unwritable(Path(machine["hub_cache"]))) is not None:
        yield (
            f"models from the hub cannot be kept: {place} cannot be written",
            "set HF_HOME to a directory of your own",
        )


def _unwritable(directory: Path) -> Path | None:
    """The directory, or the nearest one above it that exists, where it cannot be written."""
    while not directory.exists():
        directory = directory.parent
    try:  # what permissions say is not what a read-only disk does
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError:
        return directory


def _of_use(
    machine: Mapping[str, Any], uses: Mapping[str, Any] | None, gpus: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    if uses is None:
        return
    import torch

    if not gpus and torch.version.cuda is not None:
        if Path("/proc/driver/nvidia").exists():
            yield (
                f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU",
                "look at nvidia-smi and CUDA_VISIBLE_DEVICES; a driver older than torch's CUDA needs an update",
            )
        else:
            yield (
                f"torch {torch.__version__} was built for CUDA {torch.version.cuda}, and there is no GPU here",
                "it works; the build for CPUs takes a tenth of the disk: pip install torch --index-url "
                "https://download.pytorch.org/whl/cpu",
            )
    if not gpus and torch.version.cuda is None and Path("/proc/driver/nvidia").exists():
        yield "there is an NVIDIA driver, but torch was built without CUDA", "install the build of torch for CUDA"
    for gpu in gpus:
        if float(gpu["capability"]) < 7.0:
            yield (
                f"{gpu['name']} is of capability {gpu['capability']}, which torch no longer builds for",
                "use_cpu=true",
            )
    cores = machine["cores"]["usable"]
    if uses["threads"] > cores + 0.5:
        yield (
            f"torch starts {uses['threads']} threads, and this container may use {cores:.3g} cores",
            f"set num_threads or OMP_NUM_THREADS to {max(1, int(cores))}",
        )
    if uses["decoding_step"] != "compiled" and not gpus:
        yield f"sampling is slower than it could be: {uses['decoding_step']}", "install a C++ compiler (g++)"
