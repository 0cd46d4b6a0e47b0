"""What a container leaves of a machine, read from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from posttrain.engine.machine import available_memory, free_disk, memory_limit, peak_bytes, resident_bytes, usable_cores
from posttrain.engine.throughput import memory_rate, product_rate

GIB = 2**30


def test_a_quota_of_half_a_core(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 0.5


def test_the_older_way_to_write_a_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("25000\n")
    assert usable_cores(tmp_path) == 0.25


def test_what_a_limit_leaves(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB - 1000}\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300\nactive_file 40\n")
    assert memory_limit(tmp_path) == GIB
    assert available_memory(tmp_path) == 1340


def test_this_process_and_this_disk(tmp_path: Path) -> None:
    assert 0 < resident_bytes() <= peak_bytes()
    assert free_disk(tmp_path / "not" / "there" / "yet") > 0


def test_rates_are_of_this_world() -> None:
    cpu = torch.device("cpu")
    rate = product_rate(cpu, torch.float32, seconds=0.01)
    assert rate is not None
    assert 1e8 < rate < 1e14
    assert 1e8 < memory_rate(cpu, seconds=0.01) < 1e13
    assert product_rate(cpu, torch.bool, seconds=0.01) is None
