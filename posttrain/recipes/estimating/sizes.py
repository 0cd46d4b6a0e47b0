"""How many tokens the rows of a stage have: read and rendered as its trainer does it."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from posttrain.config.training import TrainingConfig
from posttrain.data.loading import Rows, load_rows
from posttrain.data.packing import WHOLE_ROWS, pack
from posttrain.data.prompts import prompt_set
from posttrain.data.rewarded import reward_trees
from posttrain.data.trees import TreeSet, preference_trees, sft_trees
from posttrain.data.unpaired import unpaired_trees
from posttrain.trainers.reward import scored_pairs

READ_ROWS = 5000  # of a longer dataset so many, drawn at random, speak for all


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a step counts as one: a tree of an offline method, a prompt of an online one."""

    rows: tuple[int, ...]  # of `Sizes.rows`
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The units of a dataset, or of the part of it that was read."""

    rows: Rows
    units: list[Unit]
    parts: list[Unit]  # the same before they were packed
    share: float  # of the dataset's rows that were read
    seconds: float  # that reading them took
    kept: Any  # what was read, held as a run would hold it

    @property
    def count(self) -> int:
        """Units of the whole dataset, estimated where only a part was read."""
        return round(len(self.units) / self.share)

    @property
    def tokens(self) -> float:
        """Of the whole dataset."""
        return sum(unit.tokens for unit in self.units) / self.share

    @property
    def mean(self) -> float:
        """Tokens of a unit."""
        return sum(unit.tokens for unit in self.units) / len(self.units)


def read_sizes(method: str, dataset: Any, tokenizer: Any, config: TrainingConfig, *, name: str) -> Sizes:
    """The sizes of a dataset for a method of `READERS`. Raises DataError as the trainer would."""
    start = time.perf_counter()
    rows = load_rows(dataset, name=name)
    loading = time.perf_counter() - start
    part = _some(rows, READ_ROWS)
    share = len(part) / len(rows)
    start = time.perf_counter()
    kept, parts, units = READERS[method](part, tokenizer, config, name)
    seconds = loading + (time.perf_counter() - start) / share
    return Sizes(rows=part, units=units, parts=parts, share=share, seconds=seconds, kept=kept)


def _some(rows: Rows, count: int) -> Rows:
    """So many of the rows, in their order."""
    if len(rows) <= count:
        return rows
    chosen = sorted(random.Random(0).sample(range(len(rows)), count))
    return Rows(name=rows.name, path=rows.path, records=[rows[i] for i in chosen])


Reader = Callable[[Rows, Any, TrainingConfig, str], tuple[Any, list[Unit], list[Unit]]]


def _trees(read: Callable[..., Any]) -> Reader:
    """A reader that is given the settings which the configuration has under the names of its arguments."""
    accepted = inspect.signature(read).parameters

    def made_by(rows: Rows, tokenizer: Any, config: TrainingConfig, name: str) -> tuple[Any, list[Unit], list[Unit]]:
        settings = {field: getattr(config, field) for field in type(config).model_fields if field in accepted}
        made = read(rows, tokenizer, **settings, name=name)
        units = _units(made)
        return made, units, units

    return made_by


def _units(made: TreeSet) -> list[Unit]:
    return [Unit(rows=(row,), tokens=tree.size) for row, tree in zip(made.rows, made.trees)]


def _demonstrations(rows: Rows, tokenizer: Any, config: Any, name: str) -> tuple[Any, list[Unit], list[Unit]]:
    """Rows to imitate; packs of them where they are packed."""
    prepared = bool((config.dataset_kwargs or {}).get("skip_prepare_dataset"))
    cut = config.replace(max_length=None) if config.packing and config.packing_strategy in WHOLE_ROWS else config
    found, parts, units = _trees(partial(sft_trees, prepared=prepared))(rows, tokenizer, cut, name)
    if config.packing and config.max_length is not None:
        packed = pack(found, max_length=config.max_length, strategy=config.packing_strategy)
        return packed, parts, _units(packed)
    return found, parts, units


def _rewarded(rows: Rows, tokenizer: Any, config: Any, name: str) -> tuple[Any, list[Unit], list[Unit]]:
    made = reward_trees(rows, tokenizer, max_length=config.max_length, reward_column=config.reward_column, name=name)
    answers: list[set[int]] = [set() for _ in made.trees]
    for row in made.rows:
        for tree, _ in row.leaves:
            answers[tree].add(row.row)
    units = [Unit(rows=tuple(sorted(of)), tokens=tree.size) for of, tree in zip(answers, made.trees) if of]
    return made, units, units


def _prompts(rows: Rows, tokenizer: Any, config: Any, name: str) -> tuple[Any, list[Unit], list[Unit]]:
    made = prompt_set(rows, tokenizer, template_kwargs=config.chat_template_kwargs, name=name)
    units = [Unit(rows=(prompt.row,), tokens=len(prompt.tokens)) for prompt in made.prompts]
    return made, units, units


READERS: Mapping[str, Reader] = {
    "sft": _demonstrations,
    "dpo": _trees(preference_trees),
    "cpo": _trees(preference_trees),
    "orpo": _trees(preference_trees),
    "kto": _trees(unpaired_trees),
    "bco": _trees(unpaired_trees),
    "reward": _trees(scored_pairs),
    "offline_rl": _rewarded,
    "grpo": _prompts,
    "ppo": _prompts,
}
