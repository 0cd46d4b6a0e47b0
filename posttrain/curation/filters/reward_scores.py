"""What a reward says of a row's answer: one by name, of a file, or a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.curation.filters.spoken import exchange
from posttrain.curation.rows import PROVENANCE, Row

_TAKEN = ("prompts", "completions", "completion_ids", PROVENANCE)


class RewardScorer:
    """The scores of one reward; the row's other columns are handed to it."""

    def __init__(self, reward: Any, options: Mapping[str, Any] | None = None) -> None:
        """A function, a name, `file.py:function`, or the directory of a reward model; `options` are those of a name.

        Raises RewardError for a reward that is not known.
        """
        from posttrain.models.quiet import no_progress_bars
        from posttrain.rewards.combination import RewardSet

        with no_progress_bars():  # of a reward model that is loaded
            self._rewards = RewardSet([spec(reward, options)])

    def close(self) -> None:
        """Ends the processes that the reward holds."""
        self._rewards.close()

    def __call__(self, rows: Sequence[Row]) -> list[float | str]:
        """The reward of each row's last answer, or why it has none."""
        values: list[float | str] = ["has no prompt with an answer"] * len(rows)
        found = [(number, pair) for number, row in enumerate(rows) if (pair := exchange(row)) is not None]
        names = dict.fromkeys(name for row in rows for name in row if name not in _TAKEN)
        scored = self._rewards.score(
            prompts=[prompt for _, (prompt, _) in found],
            completions=[answer for _, (_, answer) in found],
            completion_ids=None,
            columns={name: [rows[number].get(name) for number, _ in found] for name in names},
            places=[f"{rows[n][PROVENANCE]['source']}:{rows[n][PROVENANCE]['line']}" for n, _ in found],
        )
        why = {row: reason for reasons in scored.reasons.values() for row, reason in reasons.items()}
        for at, ((number, _), value) in enumerate(zip(found, scored.total)):
            values[number] = why.get(at, "the reward does not apply to it") if value is None else value
        return values


def spec(reward: Any, options: Mapping[str, Any] | None = None) -> Any:
    """What `RewardSet` takes for a reward that is named in settings."""
    if not isinstance(reward, str):
        return reward
    if Path(reward).is_dir():
        return {"name": "reward_model", "model": reward, **(options or {})}
    return {"name": reward, **options} if options else reward
