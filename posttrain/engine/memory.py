"""How much memory a run took, by the names that transformers gives the numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

EVERY_S = 0.02  # between two looks at the process


@contextmanager
def memory_metrics(wanted: bool, stage: str, device: torch.device) -> Iterator[dict[str, float]]:
    """A mapping that holds, after the block, `STAGE_mem_cpu_*` and `STAGE_mem_gpu_*` in bytes.

    `before` is what the process held at first, `alloc_delta` what it held more at the end, `peaked_delta` what it held
    in between beyond that.
    """
    found: dict[str, float] = {}
    if not wanted:
        yield found
        return
    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def look() -> None:
        nonlocal peak
        while not stop.wait(EVERY_S):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    try:
        yield found
    finally:
        stop.set()
        watcher.join()
    after = process.memory_info().rss
    found |= {
        f"{stage}_mem_cpu_before": before,
        f"{stage}_mem_cpu_alloc_delta": after - before,
        f"{stage}_mem_cpu_peaked_delta": max(0, peak - max(after, before)),
    }
    if cuda:
        now, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        found |= {
            f"{stage}_mem_gpu_before": held,
            f"{stage}_mem_gpu_alloc_delta": now - held,
            f"{stage}_mem_gpu_peaked_delta": max(0, most - max(now, held)),
        }
