"""Turns measurements into a JSON record and a Markdown table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cases import SHAPES, Case, lengths, make_rows
from benchmarks.interleave import DISCARDED, Measured
from benchmarks.limit import necessary_flops

MIB = 2**20


def record(case: Case, measured: Sequence[Measured]) -> dict[str, Any]:
    """Everything a comparison showed. The first side is the one the others are compared with."""
    limit = next((m for m in measured if m.side.library == "limit"), None)
    sides = [m for m in measured if m.side.library != "limit"]
    reference = sides[0]
    rows = make_rows(case)
    per_step = case.rows_per_step
    row_tokens = [sum(p + c for c in cs) for p, cs in map(lengths, rows)]
    step_tokens = [sum(row_tokens[i : i + per_step]) for i in range(0, len(rows), per_step)][DISCARDED:]
    limit_s = _limit_seconds(case, limit)[DISCARDED:] if limit else None
    results = []
    for m in sides:
        ratios = [theirs / ours for theirs, ours in zip(m.seconds, reference.seconds, strict=True)]
        results.append(
            {
                "name": m.side.name,
                "library": m.side.library,
                "settings": m.side.settings,
                "step_s": m.seconds,
                "step_cpu_s": [step["cpu_seconds"] for step in m.reports],
                "median_step_s": m.median_s,
                "tokens_per_s": sum(step_tokens) / sum(m.seconds),
                "times_slower_than_first": m.median_s / reference.median_s,
                "per_step_ratio": statistics.median(ratios),
                "cpu_time_ratio": _cpu_median(m) / _cpu_median(reference),
                "share_of_limit": sum(limit_s) / sum(m.seconds) if limit_s else None,
                "peak_mib": m.final["peak_bytes"] / MIB,
                "state_mib": 3 * m.final["parameter_bytes"] / MIB,  # gradients and the two moments of AdamW
                "peak_of_first": reference.final["peak_bytes"] / m.final["peak_bytes"],
                "losses": m.final["losses"],
                "loss_difference": max(
                    abs(a - b) for a, b in zip(m.final["losses"], reference.final["losses"], strict=True)
                ),
                "threads": m.final["threads"],
            }
        )
    return {
        "case": case.as_dict(),
        "shape": vars(SHAPES[case.shape]),
        "discarded_steps": DISCARDED,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: _version(name) for name in ("posttrain", "trl", "torch", "transformers")},
        "limit_gflops_per_s": _rates(limit) if limit else None,
        "sides": results,
    }


def markdown(result: dict[str, Any]) -> str:
    """A table of the record."""
    case, shape = result["case"], result["shape"]
    title = (
        f"### {case['method'].upper()}, model {case['model']}, {case['shape']} prompts ("
        f"{shape['prompt'][0]}-{shape['prompt'][1]} + {shape['completion'][0]}-{shape['completion'][1]} tokens), "
        f"{case['rows_per_step']} rows a step\n\n"
    )
    lines = [
        "| side | step, ms | times the first (in CPU time) | tokens/s | peak memory, MiB | first's peak / this "
        "| share of limit | largest loss difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in result["sides"]:
        share = f"{side['share_of_limit']:.0%}" if side["share_of_limit"] is not None else ""
        lines.append(
            f"| {side['name']} | {side['median_step_s'] * 1e3:.0f} | {side['times_slower_than_first']:.2f} "
            f"({side['cpu_time_ratio']:.2f}) "
            f"| {side['tokens_per_s']:.0f} | {side['peak_mib']:.0f} | {side['peak_of_first']:.2f} | {share} "
            f"| {side['loss_difference']:.1e} |"
        )
    rates = result["limit_gflops_per_s"]
    limit = f"Limit: {rates['square']:.0f} GFLOP/s square, {rates['head']:.0f} as wide as the head. " if rates else ""
    steps = case["steps"] - result["discarded_steps"]
    first = result["sides"][0]
    note = (
        f"{limit}{steps} timed steps, {first['threads']} thread(s); gradients and AdamW's moments are "
        f"{first['state_mib']:.0f} MiB of every peak that trains all weights in fp32."
    )
    return title + "\n".join(lines) + "\n\n" + note + "\n"


def write(results: Sequence[dict[str, Any]], directory: Path, name: str) -> None:
    """Prints the tables and writes them, and the records, into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    text = "\n".join(markdown(result) for result in results)
    (directory / f"{name}.json").write_text(json.dumps(list(results), indent=1))
    (directory / f"{name}.md").write_text(text)
    print(text)


def _cpu_median(measured: Measured) -> float:
    return statistics.median(step["cpu_seconds"] for step in measured.reports)


def _rates(limit: Measured) -> dict[str, float]:
    names = limit.reports[0]["flops_per_s"]
    return {n: statistics.median(r["flops_per_s"][n] for r in limit.reports) / 1e9 for n in names}


def _limit_seconds(case: Case, limit: Measured) -> list[float]:
    rates = _rates(limit)
    body, head = necessary_flops(case)
    return [b / rates["square"] / 1e9 + h / rates["head"] / 1e9 for b, h in zip(body, head, strict=True)]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
