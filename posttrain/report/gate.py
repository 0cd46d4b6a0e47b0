"""What the gate asked of each checkpoint, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report.evaluations import Evaluation, read_interval
from posttrain.report.files import number
from posttrain.report.text import DASH, points, short, words


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One checkpoint at the gate."""

    step: str
    passed: bool
    chosen: bool
    targets: tuple[tuple[str, bool], ...]
    retention: tuple[tuple[str, bool], ...]
    drift: tuple[tuple[str, bool], ...]


def gate_lines(gate: Mapping[str, Any]) -> list[GateLine]:
    """What the gate asked of each checkpoint and what it found."""
    lines = []
    for one in _mappings(gate.get("checkpoints")):
        kl, max_kl = number(one.get("kl")), number(one.get("max_kl"))
        drift = []
        if max_kl is not None:
            high = number(one.get("kl_high"))
            found = short(kl) if high is None else f"{short(kl)} (at most {short(high)})"
            drift.append((f"{found} of {short(max_kl)} nats", one.get("kl_passed") is True))
        lines.append(
            GateLine(
                step=f"step {one.get('step', DASH)}",
                passed=one.get("passed") is True,
                chosen=gate.get("promoted") is not None and one.get("path") == gate["promoted"],
                targets=tuple(_target_text(target) for target in _mappings(one.get("targets"))),
                retention=tuple(_retention_text(kept) for kept in _mappings(one.get("retention"))),
                drift=tuple(drift),
            )
        )
    return lines


def promoted(gate: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation of the checkpoint that the gate promoted."""
    path = gate.get("promoted")
    steps = [one.get("step") for one in _mappings(gate.get("checkpoints")) if path and one.get("path") == path]
    return next((one for one in evaluations if one.step is not None and one.step in steps), None)


def roles(gate: Mapping[str, Any]) -> dict[str, str]:
    """What each task is to the gate, "target" or "retention"."""
    found: dict[str, str] = {}
    for checkpoint in _mappings(gate.get("checkpoints")):
        for role, key in (("retention", "retention"), ("target", "targets")):
            found |= {str(item.get("task")): role for item in _mappings(checkpoint.get(key))}
    return found


def _target_text(target: Mapping[str, Any]) -> tuple[str, bool]:
    gain, asked = read_interval(target.get("gain")), number(target.get("min_gain"))
    found = "not measured" if gain is None else f"{points(gain.estimate)} (at least {points(gain.low)})"
    said = f"{words(str(target.get('task')))}: {found}, asked {points(asked or 0)}{_few(target)}"
    return said, target.get("passed") is True


def _retention_text(kept: Mapping[str, Any]) -> tuple[str, bool]:
    loss, allowed = read_interval(kept.get("loss")), number(kept.get("max_loss"))
    found = "not measured" if loss is None else f"{points(-loss.estimate)} (at worst {points(-loss.high)})"
    said = f"{words(str(kept.get('task')))}: {found}, allowed {points(-(allowed or 0))}{_few(kept)}"
    return said, kept.get("passed") is True


def _few(item: Mapping[str, Any]) -> str:
    needed, n = number(item.get("needed")), number(item.get("n"))
    if item.get("too_small") is not True or needed is None or n is None:
        return ""
    return f"; {n:,.0f} questions are too few, about {needed:,.0f} would show it"


def _mappings(value: Any) -> Iterable[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []
