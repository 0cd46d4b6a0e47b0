"""Turns measurements into a JSON record and a Markdown table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cases import SHAPES, Case, lengths, make_rows
from benchmarks.interleave import DISCARDED, Measured
from benchmarks.limit import necessary_flops

MIB = 2**20


def record(case: Case, measured: Sequence[Measured]) -> dict[str, Any]:
    """Everything a comparison showed. The first side is the one the others are compared with."""
    limit = next((m for m in measured if m.side.package == "limit"), None)
    sides = [m for m in measured if m.side.package != "limit"]
    reference = sides[0]
    limit_s = _limit_seconds(case, limit)[DISCARDED:] if limit else None
    results = []
    for m in sides:
        ratios = [theirs / ours for theirs, ours in zip(m.seconds, reference.seconds, strict=True)]
        tokens = [step["tokens"] for step in m.reports] if case.sampled else _given_tokens(case)
        results.append(
            {
                "name": m.side.name,
                "package": m.side.package,
                "settings": m.side.settings,
                "step_s": m.seconds,
                "step_cpu_s": [step["cpu_seconds"] for step in m.reports],
                "median_step_s": m.median_s,
                "tokens_per_s": sum(tokens) / sum(m.seconds),
                "tokens_per_step": statistics.mean(tokens),
                "times_slower_than_first": m.median_s / reference.median_s,
                "per_step_ratio": statistics.median(ratios),
                "cpu_time_ratio": _cpu_median(m) / _cpu_median(reference),
                "share_of_limit": sum(limit_s) / sum(m.seconds) if limit_s else None,
                "peak_mib": m.final["peak_bytes"] / MIB,
                # gradients and the two moments of AdamW
                "state_mib": 0.0 if case.method == "generation" else 3 * m.final["parameter_bytes"] / MIB,
                "peak_of_first": reference.final["peak_bytes"] / max(m.final["peak_bytes"], 1),
                "threads": m.final["threads"],
                **_training(m, reference),
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


def _given_tokens(case: Case) -> list[int]:
    """Tokens of each timed step's rows, a prompt counted with each of its completions."""
    row_tokens = [sum(p + c for c in cs) for p, cs in (lengths(case, row) for row in make_rows(case))]
    per_step = case.rows_per_step
    return [sum(row_tokens[i : i + per_step]) for i in range(0, len(row_tokens), per_step)][DISCARDED:]


def _training(measured: Measured, reference: Measured) -> dict[str, Any]:
    """Losses with their largest difference from the first side's, gradient norms, and entropies where logged."""
    if "losses" not in measured.final:
        return {}
    pairs = zip(measured.final["losses"], reference.final["losses"], strict=True)
    return {
        "losses": measured.final["losses"],
        "loss_difference": max(abs(a - b) for a, b in pairs),
        "gradient_norms": measured.final["grad_norms"],
        "entropies": measured.final["entropies"],
    }


# The last columns of the table, which say that the sides did the same work: title, and what a side shows there.
_SAMPLED = ("tokens a step", lambda side: f"{side['tokens_per_step']:.0f}")
_CHECKS: dict[str, list[tuple[str, Callable[[dict[str, Any]], str]]]] = {
    "sft": [("largest loss difference", lambda side: f"{side['loss_difference']:.1e}")],
    "dpo": [("largest loss difference", lambda side: f"{side['loss_difference']:.1e}")],
    "reward": [("largest loss difference", lambda side: f"{side['loss_difference']:.1e}")],
    "grpo": [
        _SAMPLED,
        ("gradient norm", lambda side: f"{statistics.median(side['gradient_norms']):.3g}"),
        ("entropy", lambda side: f"{statistics.mean(side['entropies']):.3f}"),
    ],
    "generation": [_SAMPLED],
}


def markdown(result: dict[str, Any]) -> str:
    """A table of the record."""
    case, checks = result["case"], _CHECKS[result["case"]["method"]]
    heads = [
        "side", "step, ms", "times the first (in CPU time)", "tokens/s", "peak memory, MiB", "first's peak / this",
        "share of limit", *(title for title, _ in checks),
    ]  # fmt: skip
    rows = []
    for side in result["sides"]:
        share = f"{side['share_of_limit']:.0%}" if side["share_of_limit"] is not None else ""
        rows.append(
            [
                side["name"],
                f"{side['median_step_s'] * 1e3:.0f}",
                f"{side['times_slower_than_first']:.2f} ({side['cpu_time_ratio']:.2f})",
                f"{side['tokens_per_s']:.0f}",
                f"{side['peak_mib']:.0f}",
                f"{side['peak_of_first']:.2f}",
                share,
                *(show(side) for _, show in checks),
            ]
        )
    table = [heads, ["---"] * len(heads), *rows]
    rates = result["limit_gflops_per_s"]
    limit = f"Limit: {rates['square']:.0f} GFLOP/s square, {rates['head']:.0f} as wide as the head. " if rates else ""
    steps = case["steps"] - result["discarded_steps"]
    first = result["sides"][0]
    note = f"{limit}{steps} timed steps, {first['threads']} thread(s)"
    if first["state_mib"]:
        note += (
            f"; gradients and AdamW's moments are {first['state_mib']:.0f} MiB of every peak that trains all weights"
            " in fp32"
        )
    lines = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"### {_title(case, result['shape'])}\n\n{lines}\n\n{note}.\n"


def _title(case: dict[str, Any], shape: dict[str, Any]) -> str:
    what = "Generation" if case["method"] == "generation" else case["method"].upper()
    prompt, completion = (f"{first}-{last}" for first, last in (shape["prompt"], shape["completion"]))
    rows = f"{case['rows_per_step']} rows a step"
    if case["max_completion"]:
        completion, rows = (
            str(case["max_completion"]),
            f"{case['rows_per_step']} prompts x {case['generations']} a step",
        )
    return f"{what}, model {case['model']}, {case['shape']} prompts ({prompt} + {completion} tokens), {rows}"


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
