"""What `posttrain doctor` finds out about this machine: what there is, what will be used, how fast it is."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from posttrain.cli.doctor_packages import Package, installed
from posttrain.engine.machine import (
    available_memory,
    free_disk,
    memory_limit,
    processor,
    total_memory,
    usable_cores,
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory, disk: what a container leaves of them too."""
    home = hub_cache()
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": {"usable": usable_cores(), "all": os.cpu_count()},
        "memory": {"total": total_memory(), "limit": memory_limit(), "available": available_memory()},
        "disk": {"here": free_disk(Path.cwd()), "hub_cache": free_disk(home)},
        "shared_memory": free_disk(Path("/dev/shm")) if Path("/dev/shm").is_dir() else None,
        "hub_cache": str(home),
    }


def hub_cache() -> Path:
    """Where models from the hub are kept."""
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(hub) if hub else Path(home) / "hub"


def versions(packages: list[Package]) -> dict[str, str | None]:
    """Of Python, posttrain and what it must have."""
    must = {package.name: package.version for package in packages if not package.use}
    if not must:  # run from its source, where no metadata names them
        must = {name: installed(name) for name in ("torch", "transformers", "peft", "datasets", "accelerate")}
    return {"python": platform.python_version(), "posttrain": installed("posttrain"), **must}


def gpus() -> list[dict[str, Any]]:
    """Those that torch can use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        free, _ = torch.cuda.mem_get_info(index)
        found.append(
            {
                "name": about.name,
                "memory": about.total_memory,
                "free": free,
                "capability": f"{about.major}.{about.minor}",
                "bf16": torch.cuda.is_bf16_supported(),
            }
        )
    return found


def uses() -> dict[str, Any]:
    """What a training here would choose, and why."""
    import torch

    from posttrain.engine.precision import fastest_precision
    from posttrain.models.compiled import compiled
    from posttrain.models.decoding_native import SOURCE
    from posttrain.models.loading import accelerator
    from posttrain.trainers.assembly import CPU_TOKENS_PER_PASS, CUDA_TOKENS_PER_PASS

    device = torch.device(accelerator() or "cpu")
    precision = fastest_precision(device, 512)
    library, why = compiled(SOURCE)
    tokens = CPU_TOKENS_PER_PASS if device.type == "cpu" else CUDA_TOKENS_PER_PASS
    return {
        "device": str(device),
        "dtype": str(precision.dtype).removeprefix("torch."),
        "dtype_reason": precision.reason,
        "threads": torch.get_num_threads(),
        "decoding_step": "compiled" if library is not None else f"in Python: {why}",
        "tokens_per_pass": f"at most {tokens:,}",
        "layout": "forest where the model agrees with it; each model is tried when it is loaded",
    }


def measured() -> dict[str, float | None]:
    """GFLOP/s of matrix products by number type, and GB/s of memory."""
    import torch

    from posttrain.engine.throughput import memory_rate, product_rate
    from posttrain.models.loading import accelerator

    device = torch.device(accelerator() or "cpu")
    rates: dict[str, float | None] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rate = product_rate(device, dtype)
        rates[str(dtype).removeprefix("torch.")] = None if rate is None else rate / 1e9
    return {**rates, "memory_GB_s": memory_rate(device) / 1e9}


def has_torch() -> bool:
    """Whether torch is there to be asked."""
    return importlib.util.find_spec("torch") is not None
