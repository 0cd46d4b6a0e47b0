"""How far a model has moved from the one it started from: on the prompts of a task, and on text it was not trained on.

On prompts both models answer. The forward divergence KL(start || now) is taken along the start's answers, the reverse
KL(now || start) along the model's own, each exactly at every token (`models/divergence.py`) and then over the tokens
of all answers. On neutral text both are taken along the text.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from posttrain.data.loading import load_rows
from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.evaluation.tasks import AnyTask, Task
from posttrain.models.divergence import MEMORY_BYTES, Divergence, Moment, divergence
from posttrain.models.learner import Learner
from posttrain.sampling.broken_text import text_metrics
from posttrain.sampling.local import LocalSampler
from posttrain.sampling.prompts import prompt_tokens
from posttrain.stats import Interval, wilson
from posttrain.stats.ratio import bootstrap_ratio
from posttrain.types import Completion, Prompt, SamplingParams, Segment

FILE = "drift.json"
PROMPTS = 64  # taken of an evaluation's questions
LONGEST = 256  # tokens of an answer to one of them

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What changed on one set of texts. Divergences and entropies are in nats a token, lengths in tokens."""

    kl_forward: Interval  # KL(start || now) along the start's answers, or along the text
    kl_reverse: Interval  # KL(now || start) along the model's own answers, or along the text
    changed_greedy: Interval  # share of prompts with another greedy answer; of text, of tokens with another likeliest
    entropy_before: float
    entropy_after: float
    length_before: float | None  # mean of the greedy answers; None on text
    length_after: float | None
    text_before: Mapping[str, float] | None = None  # `text_metrics` of the greedy answers; None on text
    text_after: Mapping[str, float] | None = None
    texts: int
    tokens: int  # at which distributions were compared

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `drift.json`, where what is not known is null."""
        plain = asdict(self)
        for name in ("kl_forward", "kl_reverse", "changed_greedy"):
            plain[name] = {k: None if math.isnan(v) else v for k, v in plain[name].items()}
        return plain


class DriftProbe:
    """Measures models against one start, on the same prompts and texts each time.

    `texts` limits how many of each set are taken, evenly spread over it: what a checkpoint can afford. Answers of at
    most `max_new_tokens` are drawn at `temperature` for the divergences, and greedily for what is counted; at
    temperature 0 the greedy ones serve for both. A text is read up to `max_length` tokens. `autocast` is the precision
    of the forward passes, `max_tokens` the size of one.
    Raises ConfigError without anything to measure, DataError for a text of less than two tokens.
    """

    def __init__(
        self,
        start: Moment,
        tokenizer: Any,
        *,
        prompts: Sequence[Prompt] = (),
        neutral: Sequence[str] = (),
        texts: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        max_length: int = 512,
        seed: int = 0,
        max_tokens: int = 1024,
        memory_bytes: int = MEMORY_BYTES,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if not prompts and not neutral:
            raise ConfigError("drift needs prompts or neutral text to be measured on; both are empty")
        if texts is not None and texts < 1:
            raise ConfigError(f"texts={texts} must be at least 1, or None for all")
        self._start, self._tokenizer, self._seed = start, tokenizer, seed
        self._prompts = prompt_tokens(tokenizer, spread(prompts, texts))
        self._neutral = _text_trees(tokenizer, spread(neutral, texts), max_length)
        self._greedy = SamplingParams(max_tokens=max_new_tokens, temperature=0.0)
        self._drawn = replace(self._greedy, temperature=temperature)
        self._options: dict[str, Any] = {"max_tokens": max_tokens, "memory_bytes": memory_bytes, "autocast": autocast}
        self._before: tuple[list[Completion], list[Completion]] | None = None

    def __call__(self, now: Moment) -> dict[str, Drift]:
        """The drift of the model as it is now, under "prompts" and "neutral". Nothing random is left changed.

        Raises ModelError where a model's probabilities are not finite.
        """
        found = {}
        if self._prompts:
            if self._before is None:
                self._before = self._answers(self._start)
            found["prompts"] = self._on_prompts(now, self._before, self._answers(now))
        if self._neutral:
            found["neutral"] = self._on_text(now)
        return found

    def start_text(self) -> dict[str, float]:
        """The metrics of `text_metrics` for the start's greedy answers; none without prompts."""
        if not self._prompts:
            return {}
        if self._before is None:
            self._before = self._answers(self._start)
        return _text(self._before[0])

    def _answers(self, moment: Moment) -> tuple[list[Completion], list[Completion]]:
        """The greedy and the drawn answers."""
        with moment.during(), self._options["autocast"]():
            sampler = LocalSampler(moment.learner.model, self._tokenizer)
            greedy = [group[0] for group in sampler.sample(self._prompts, self._greedy)]
            if self._drawn.temperature == 0:
                return greedy, greedy
            return greedy, [group[0] for group in sampler.sample(self._prompts, self._drawn, seed=self._seed)]

    def _on_prompts(
        self, now: Moment, before: tuple[list[Completion], list[Completion]], after: tuple[list[Completion], ...]
    ) -> Drift:
        trees = [
            Segment(tokens=prompt, children=[_leaf(first), _leaf(second)])
            for prompt, first, second in zip(self._prompts, before[1], after[1])
        ]
        found = divergence(trees, self._start, now, **self._options)
        counts = [len(leaf.tokens) for tree in trees for leaf in tree.leaves()]
        forward, reverse = (_sums(values, counts) for values in (found.forward, found.reverse))
        old_entropy, new_entropy = (_sums(values, counts) for values in (found.entropy_start, found.entropy_now))
        _require_finite([*forward, *reverse], 2)
        starts, owns = counts[0::2], counts[1::2]
        changed = sum(a.tokens != b.tokens for a, b in zip(before[0], after[0]))
        return Drift(
            kl_forward=bootstrap_ratio(forward[0::2], starts, seed=self._seed),
            kl_reverse=bootstrap_ratio(reverse[1::2], owns, seed=self._seed),
            changed_greedy=wilson(changed, len(trees)),
            entropy_before=sum(old_entropy[0::2]) / sum(starts),
            entropy_after=sum(new_entropy[1::2]) / sum(owns),
            length_before=_mean_length(before[0]),
            length_after=_mean_length(after[0]),
            text_before=_text(before[0]),
            text_after=_text(after[0]),
            texts=len(trees),
            tokens=sum(counts),
        )

    def _on_text(self, now: Moment) -> Drift:
        found: Divergence = divergence(self._neutral, self._start, now, **self._options)
        counts = [len(tree.tokens) - 1 for tree in self._neutral]
        forward, reverse = (_sums(values, counts) for values in (found.forward, found.reverse))
        _require_finite([*forward, *reverse], 1)
        return Drift(
            kl_forward=bootstrap_ratio(forward, counts, seed=self._seed),
            kl_reverse=bootstrap_ratio(reverse, counts, seed=self._seed),
            changed_greedy=bootstrap_ratio(_sums(found.changed, counts), counts, seed=self._seed),
            entropy_before=sum(_sums(found.entropy_start, counts)) / sum(counts),
            entropy_after=sum(_sums(found.entropy_now, counts)) / sum(counts),
            length_before=None,
            length_after=None,
            texts=len(counts),
            tokens=sum(counts),
        )


def drift_between(before: Any, after: Any, tokenizer: Any, **options: Any) -> dict[str, Drift]:
    """The drift from one loaded model to another; `options` are those of `DriftProbe`. Both are left as they came.

    Raises ModelError where the two do not share a vocabulary that the texts stay in.
    """
    for name, model in (("first", before), ("second", after)):
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise ModelError(f"the weights of the {name} model are not finite: training damaged it")
    learners = [Learner(before), Learner(after)]
    try:
        probe = DriftProbe(Moment(learner=learners[0]), tokenizer, **options)
        return probe(Moment(learner=learners[1]))
    finally:
        for learner in learners:
            learner.release()


def write_drift(path: str | Path, drift: Mapping[str, Drift]) -> None:
    """Writes `drift.json`, aside first, so that the file is whole or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps({name: one.as_dict() for name, one in drift.items()}, indent=2) + "\n")
    aside.replace(path)


def read_kl(drift: Mapping[str, Any]) -> Interval | None:
    """What a gate's `max_kl` is held against, of what `drift.json` holds: KL(now || start), on prompts if measured."""
    found = drift.get("prompts") or drift.get("neutral")
    if found is None:
        return None
    known = {key: math.nan if value is None else value for key, value in found["kl_reverse"].items()}
    return Interval(estimate=known["estimate"], low=known["low"], high=known["high"], n=int(known["n"]))


def drift_metrics(drift: Mapping[str, Drift]) -> dict[str, float]:
    """The estimates under names for a log: `drift/prompts/kl_forward` and so on, and `text_metrics` of the answers."""
    metrics: dict[str, float] = {}
    for name, one in drift.items():
        for key, value in vars(one).items():
            value = value.estimate if isinstance(value, Interval) else value
            if isinstance(value, int | float) and key not in ("texts", "tokens"):
                metrics[f"drift/{name}/{key}"] = float(value)
        metrics |= one.text_after or {}
    return metrics


def drift_prompts(tasks: Sequence[AnyTask]) -> tuple[list[Prompt], int]:
    """Questions of the tasks that are answered in a chat, evenly from all, and the tokens of an answer at most."""
    asked = [task for task in tasks if isinstance(task, Task) and task.chat_template]
    prompts: list[Prompt] = [task.messages(row) for task in asked for row in task.rows]
    return spread(prompts, PROMPTS), min(LONGEST, max((task.max_new_tokens for task in asked), default=LONGEST))


def neutral_texts(path: str | os.PathLike[str]) -> list[str]:
    """The paragraphs of a .txt, or the column `text` of a file of rows. Raises DataError naming the place."""
    if Path(path).suffix == ".txt" and Path(path).is_file():
        paragraphs = re.split(r"\n\s*\n", Path(path).read_text(encoding="utf-8"))
        if texts := [paragraph.strip() for paragraph in paragraphs if paragraph.strip()]:
            return texts
        raise DataError(f"neutral: {os.fspath(path)} holds no text")
    rows = load_rows(os.fspath(path), name="neutral")
    for index, row in enumerate(rows):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise DataError(f"{rows.where(index)}: column 'text' must hold a text, found {row.get('text')!r:.60}")
    return [row["text"] for row in rows]


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` of the items at even distances, or all: a file sorted by kind keeps all its kinds."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _leaf(completion: Completion) -> Segment:
    assert completion.tokens is not None
    return Segment(tokens=completion.tokens, trained=[(0, len(completion.tokens))])


def _text_trees(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Segment]:
    trees = []
    for number, text in enumerate(texts, start=1):
        tokens = tokenizer(text).input_ids[:max_length] if isinstance(text, str) else []
        if len(tokens) < 2:
            raise DataError(
                f"neutral text {number} is {text!r:.60}: a text of at least two tokens is needed, within "
                f"max_length={max_length}"
            )
        trees.append(Segment(tokens=tokens, trained=[(1, len(tokens))]))
    return trees


def _sums(values: Tensor, counts: Sequence[int]) -> list[float]:
    """The sum over each text's tokens."""
    return [float(part.sum()) for part in values.to(torch.float64).split(list(counts))]


def _require_finite(sums: Sequence[float], leaves: int) -> None:
    for place, value in enumerate(sums):
        if not math.isfinite(value):
            number = place % (len(sums) // 2) // leaves + 1
            raise ModelError(
                f"a model's probabilities are not finite on text {number}, so there is no drift to measure: its "
                "weights were damaged. Take an earlier checkpoint"
            )


def _text(completions: Sequence[Completion]) -> dict[str, float]:
    return text_metrics([one.text for one in completions], [one.finish_reason for one in completions])


def _mean_length(completions: Sequence[Completion]) -> float:
    return sum(len(completion.tokens or ()) for completion in completions) / len(completions)
