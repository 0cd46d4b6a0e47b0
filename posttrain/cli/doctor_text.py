"""What `posttrain doctor` found, as a page for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GIB = 2**30
_WIDTH = 15


def page(facts: Mapping[str, Any]) -> str:
    """The facts by subject, the problems last."""
    machine, uses, measured = facts["machine"], facts["uses"], facts["measured"]
    memory, cores = machine["memory"], machine["cores"]
    rows: list[tuple[str, str]] = [
        ("system", machine["system"]),
        ("processor", machine["processor"]),
        ("cores", f"{cores['usable']:.3g} usable of {cores['all']}"),
        ("memory", f"{_gib(memory['available'])} free of {_gib(memory['total'])}{_limit(memory['limit'])}"),
        (
            "disk",
            f"{_gib(machine['disk']['here'])} free here, {_gib(machine['disk']['hub_cache'])} for models of the hub",
        ),
    ]
    rows += [
        ("gpu", f"{gpu['name']}, {_gib(gpu['free'])} free of {_gib(gpu['memory'])}, capability {gpu['capability']}")
        for gpu in machine["gpus"]
    ] or [("gpu", "none")]
    rows.append(("", ""))
    rows += [(name, version or "MISSING") for name, version in facts["versions"].items()]
    if uses is not None:
        rows += [
            ("", ""),
            ("device", uses["device"]),
            ("dtype", f"{uses['dtype']}: {uses['dtype_reason']}"),
            ("threads", str(uses["threads"])),
            ("decoding step", uses["decoding_step"]),
            ("a pass", f"{uses['tokens_per_pass']} tokens"),
            ("layout", uses["layout"]),
        ]
    if measured is not None:
        rates = [f"{name} {_rate(rate)}" for name, rate in measured.items() if name != "memory_GB_s"]
        rows += [("products", ", ".join(rates)), ("memory speed", f"{measured['memory_GB_s']:.3g} GB/s")]
    rows.append(("", ""))
    for name, package in facts["optional"].items():
        there = package["version"] or f"not installed ({package['for']}): {package['install']}"
        rows.append((name, there))
    text = "\n".join(f"{name:<{_WIDTH}} {value}".rstrip() for name, value in rows)
    found = [f"PROBLEM {problem['what']}.\n        {problem['do']}" for problem in facts["problems"]]
    return "\n".join([text, "", *(found or ["No problem found."])])


def _gib(amount: int | None) -> str:
    return "?" if amount is None else f"{amount / _GIB:.3g} GiB"


def _limit(limit: int | None) -> str:
    return "" if limit is None else f", the container may use {_gib(limit)}"


def _rate(rate: float | None) -> str:
    return "not offered" if rate is None else f"{rate:.3g} GFLOP/s"
