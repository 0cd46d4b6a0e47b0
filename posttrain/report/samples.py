"""Some groups of completions of an online run, with what they were rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.report.files import number, parse_lines
from posttrain.report.tokens import Shaded, shaded

_WINDOW = 8 * 2**20  # bytes read at the start, in the middle and at the end of a file
_MOMENTS, _AT_EACH = 3, 2


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A completion, and how often the group has it."""

    text: Any
    times: int
    reward: float | None
    advantage: float | None
    rewards: dict[str, float | None]  # by name, where there are several
    cut_off: bool
    drawings: tuple[Shaded, ...] = ()  # where something is known of its tokens


@dataclass(frozen=True, kw_only=True)
class Group:
    """The completions of one prompt, the best first."""

    step: int
    prompt: Any
    answer: str | None  # what was right, where the line says so
    completions: tuple[Sampled, ...]


def groups(path: Path) -> list[Group]:
    """Groups from the beginning, the middle and the end of the run whose rewards differ most."""
    found = [group for group in _all_groups(_lines(path)) if group]
    steps = sorted({_step(group) for group in found})
    if not steps:
        return []
    picked: list[Group] = []
    for moment in sorted({steps[i * (len(steps) - 1) // max(1, _MOMENTS - 1)] for i in range(_MOMENTS)}):
        here = sorted((group for group in found if _step(group) == moment), key=_spread, reverse=True)
        picked += [_group(group) for group in here[:_AT_EACH]]
    return picked


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; of one too large to be read, those of three windows."""
    try:
        total = path.stat().st_size
        if total <= 3 * _WINDOW:
            return list(parse_lines(path.read_bytes()))
        text = b""
        with path.open("rb") as file:
            for start in (0, (total - _WINDOW) // 2, total - _WINDOW):
                file.seek(start)
                text += file.read(_WINDOW) + b"\n"  # the lines that a window cuts are broken, and passed over
        return list(parse_lines(text))
    except OSError:
        return []


def _all_groups(lines: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for line in lines:
        if "completion" in line and isinstance(line.get("group"), int):
            found.setdefault((_step([line]), line["group"]), []).append(line)
    return list(found.values())


def _group(lines: Sequence[Mapping[str, Any]]) -> Group:
    names = ("answer", "ground_truth", "solution")
    answer = next((line[name] for line in lines for name in names if line.get(name)), None)
    alike: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: number(line.get("reward")) or 0.0, reverse=True):
        alike.setdefault((str(line["completion"]), line.get("reward")), []).append(line)
    return Group(
        step=_step(lines),
        prompt=lines[0].get("prompt"),
        answer=None if answer is None else str(answer),
        completions=tuple(_sampled(same) for same in alike.values()),
    )


def _sampled(same: Sequence[Mapping[str, Any]]) -> Sampled:
    line = same[0]
    rewards = line.get("rewards")
    named = {str(name): number(value) for name, value in rewards.items()} if isinstance(rewards, Mapping) else {}
    return Sampled(
        text=line["completion"],
        times=len(same),
        reward=number(line.get("reward")),
        advantage=number(line.get("advantage")),
        rewards=named if len(named) > 1 else {},
        cut_off=line.get("finish_reason") == "length",
        drawings=shaded(line),
    )


def _spread(lines: Sequence[Mapping[str, Any]]) -> float:
    rewards = [reward for line in lines if (reward := number(line.get("reward"))) is not None]
    if not rewards:
        return 0.0
    mean = sum(rewards) / len(rewards)
    return sum((reward - mean) ** 2 for reward in rewards) / len(rewards)


def _step(lines: Sequence[Mapping[str, Any]]) -> int:
    return int(number(lines[0].get("step")) or 0)
