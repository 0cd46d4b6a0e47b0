"""What answers are worth: by rewards, or by a model that compares them two at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Protocol

from posttrain.config.identity import path_identity, read_paths
from posttrain.curation.candidates import Answered, Ask, Refused, digest
from posttrain.curation.journal import Journal
from posttrain.rewards.combination import RewardSet
from posttrain.rewards.judge import PairwiseJudge
from posttrain.types import Unjudged

_BATCH = 256  # answers judged together; those of fewer prompts are lost when it is interrupted


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What the answers to one prompt are worth, each as its number says."""

    total: list[float | None]  # None: unjudged, or no reward applies
    by_name: dict[str, list[float | None]]
    reasons: dict[str, str] = field(default_factory=dict)  # number of the answer -> why it was not judged

    def notes(self, number: int) -> dict[str, float | None]:
        """For the provenance of a row made from this answer."""
        return {name: values[number] for name, values in self.by_name.items()}

    def why_not(self, number: int) -> str:
        """Why the answer has no score."""
        return self.reasons.get(str(number), "no reward applies to it")


class Scorer(Protocol):
    """Gives answers their scores. `key` changes when the same answers could get others."""

    key: str

    def check(self, asks: Sequence[Ask]) -> None:
        """Raises where these prompts could not be judged, before they are answered."""
        ...

    def score(self, groups: Sequence[Answered]) -> list[Scores]:
        """The scores of each prompt's answers."""
        ...


def scored(
    items: Iterable[Answered | Refused], scorer: Scorer, journal: Journal
) -> Iterator[tuple[Answered, Scores] | Answered | Refused]:
    """The prompts with the scores of their answers, in order; alone where there is no answer.

    Scores are in the journal as soon as a batch of them is there, and are not asked for again. Those of a prompt with
    an answer that could not be judged are not kept: the next run tries again.
    """
    held: list[Answered | Refused] = []
    for item in items:
        held.append(item)
        if sum(len(one.answers) for one in held if isinstance(one, Answered)) >= _BATCH or len(held) >= _BATCH:
            yield from _scored(held, scorer, journal)
            held = []
    yield from _scored(held, scorer, journal)


def _scored(
    items: Sequence[Answered | Refused], scorer: Scorer, journal: Journal
) -> Iterator[tuple[Answered, Scores] | Answered | Refused]:
    groups = {item.ask.number: item for item in items if isinstance(item, Answered) and item.answers}
    keys = {
        number: digest([scorer.key, group.ask.prompt, group.ask.columns, [answer.text for answer in group.answers]])
        for number, group in groups.items()
    }
    found: dict[int, Scores] = {}
    for number, key in keys.items():
        if (kept := journal.find("scores", number, key)) is not None:
            found[number] = Scores(**kept)
    waiting = [group for number, group in groups.items() if number not in found]
    if waiting:
        new = {group.ask.number: one for group, one in zip(waiting, scorer.score(waiting))}
        journal.add("scores", [(n, keys[n], asdict(one)) for n, one in new.items() if not one.reasons])
        found |= new
    for item in items:
        if isinstance(item, Answered) and item.ask.number in found:
            yield item, found[item.ask.number]
        else:
            yield item


class RewardScorer:
    """Scores by rewards: the weighted sum of a `RewardSet`."""

    def __init__(self, rewards: RewardSet, *, key: str = "") -> None:
        self.rewards, self.key = rewards, key

    def check(self, asks: Sequence[Ask]) -> None:
        """Raises RewardError where a reward needs a column that the prompts do not have."""
        self.rewards.check(_columns(asks))

    def score(self, groups: Sequence[Answered]) -> list[Scores]:
        """The rewards of all answers in one call, taken apart again."""
        flat = [(group.ask, answer) for group in groups for answer in group.answers]
        names = _columns([group.ask for group in groups])
        scores = self.rewards.score(
            prompts=[ask.prompt for ask, _ in flat],
            completions=[[{"role": "assistant", "content": answer.text}] for _, answer in flat],
            completion_ids=None,
            columns={name: [ask.columns.get(name) for ask, _ in flat] for name in names},
            places=[f"{ask.place}, answer {answer.number}" for ask, answer in flat],
        )
        why = {row: reason for reasons in scores.reasons.values() for row, reason in reasons.items()}
        found, start = [], 0
        for group in groups:
            here = range(start, start + len(group.answers))
            found.append(
                Scores(
                    total=scores.total[here.start : here.stop],
                    by_name={name: values[here.start : here.stop] for name, values in scores.by_name.items()},
                    reasons={str(row - start): why[row] for row in here if row in why and scores.total[row] is None},
                )
            )
            start = here.stop
        return found


class JudgeScorer:
    """Scores by a model that compares: each answer's share of wins over the others, a tie half a win.

    Every two answers to a prompt are compared in both orders. What the judge could not say counts neither way.
    """

    def __init__(self, judge: PairwiseJudge, *, key: str = "") -> None:
        self.judge, self.key = judge, key

    def check(self, asks: Sequence[Ask]) -> None:
        """Raises where the judge does not answer, or not with a verdict."""
        self.judge.check()

    def score(self, groups: Sequence[Answered]) -> list[Scores]:
        """The shares of wins."""
        asked: list[tuple[int, int, int]] = [
            (place, a, b) for place, group in enumerate(groups) for a, b in combinations(range(len(group.answers)), 2)
        ]
        verdicts = self.judge.compare(
            [groups[place].ask.prompt for place, _, _ in asked],
            [groups[place].answers[a].text for place, a, _ in asked],
            [groups[place].answers[b].text for place, _, b in asked],
        )
        wins: list[list[list[float]]] = [[[] for _ in group.answers] for group in groups]
        why: list[dict[str, str]] = [{} for _ in groups]
        for (place, a, b), verdict in zip(asked, verdicts):
            if isinstance(verdict, Unjudged):
                why[place] |= {str(a): verdict.reason, str(b): verdict.reason}
            else:
                wins[place][a].append(verdict)
                wins[place][b].append(1 - verdict)
        totals = [[sum(of_one) / len(of_one) if of_one else None for of_one in group] for group in wins]
        return [
            Scores(
                total=total,
                by_name={"win_rate": total},
                reasons={number: said for number, said in reasons.items() if total[int(number)] is None},
            )
            for total, reasons in zip(totals, why)
        ]


def rewards_key(specs: Sequence[Any], weights: Sequence[float] | None) -> str:
    """Of the rewards' names, options and weights, and of the files and models that they name."""
    names = [spec["name"] if isinstance(spec, Mapping) else spec for spec in specs]
    models = [spec.get("model") for spec in specs if isinstance(spec, Mapping)]
    paths = read_paths([name for name in [*names, *models] if isinstance(name, str)])
    return digest([json.loads(json.dumps(list(specs), default=str)), weights, [path_identity(path) for path in paths]])


def _columns(asks: Sequence[Ask]) -> list[str]:
    """The columns that any of the prompts has; what rewards call their own is refused by name there."""
    return list(dict.fromkeys(name for ask in asks for name in ask.columns))
