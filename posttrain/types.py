"""What crosses the rooms of the house: token trees, forests, batches, outputs, losses, and the protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from posttrain.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens in a tree; a tree is its root.

    A child continues its parent, as a completion continues its prompt. Only leaves are trained, and every leaf
    trains at least one token. A conversation of several turns is one leaf with several spans.
    """

    tokens: Sequence[int]
    trained: Sequence[tuple[int, int]] = ()  # half-open spans into `tokens`, ascending
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)  # a value per trained token
    children: Sequence[Segment] = ()

    def leaves(self) -> Iterator[Segment]:
        """The leaves below this segment (itself, if it has no children), left to right."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def shape(self) -> tuple[Any, ...]:
        """The tree without its columns, as nested tuples: equal for trees that train the same tokens."""
        children = tuple(child.shape() for child in self.children)
        return tuple(self.tokens), tuple(tuple(span) for span in self.trained), children

    @property
    def size(self) -> int:
        """Tokens of the whole tree, a shared prompt counted once."""
        return len(self.tokens) + sum(child.size for child in self.children)


@dataclass(frozen=True, kw_only=True)
class TokenForest:
    """Trees laid end to end in one flat row without padding: N tokens, S segments, Q leaves, M trained tokens.

    A token attends to the earlier tokens of its own segment and to all of that segment's ancestors, nothing else.
    Segments stand in preorder, so a first child follows its parent directly.
    """

    tokens: Tensor  # [N] int64
    positions: Tensor  # [N] int64, counted along the path from the root
    lengths: tuple[int, ...]  # [S] tokens of each segment
    parents: tuple[int, ...]  # [S] index of the parent, -1 for a root; parents come first
    leaves: tuple[int, ...]  # [Q] segment of each leaf, ascending
    trained: tuple[int, ...]  # [Q] trained tokens of each leaf
    predictors: Tensor  # [M] int64, the position whose output predicts the trained token
    targets: Tensor  # [M] int64, the trained token itself
    sequence: Tensor  # [M] int64, the leaf it belongs to, ascending
    ends: Tensor  # [Q] int64, the last token of each leaf

    @classmethod
    def from_trees(cls, trees: Sequence[Segment]) -> Self:
        """The forest of these trees, in order. Raises ValueError for a tree that cannot be trained as it stands."""
        tokens: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        parents: list[int] = []
        leaves: list[int] = []
        trained: list[int] = []
        predictors: list[int] = []
        targets: list[int] = []
        ends: list[int] = []

        def lay(segment: Segment, parent: int, start: int, last: int) -> None:
            if not segment.tokens:
                raise ValueError("a segment without tokens")
            offset, index = len(tokens), len(lengths)
            tokens.extend(segment.tokens)
            positions.extend(range(start, start + len(segment.tokens)))
            lengths.append(len(segment.tokens))
            parents.append(parent)
            if segment.children:
                if segment.trained:
                    raise ValueError("only leaves can be trained: an inner segment belongs to several sequences")
                for child in segment.children:
                    lay(child, index, start + len(segment.tokens), offset + len(segment.tokens) - 1)
                return
            count = 0
            for begin, end in segment.trained:
                if begin == 0 and last < 0:
                    raise ValueError("a root's first token has nothing before it and cannot be trained")
                targets.extend(segment.tokens[begin:end])
                predictors.extend(offset + i - 1 if i else last for i in range(begin, end))
                count += end - begin
            if not count:
                raise ValueError("a leaf without a trained token")
            leaves.append(index)
            trained.append(count)
            ends.append(len(tokens) - 1)

        for tree in trees:
            lay(tree, -1, 0, -1)
        counts = torch.tensor(trained, dtype=torch.int64)
        return cls(
            tokens=torch.tensor(tokens, dtype=torch.int64),
            positions=torch.tensor(positions, dtype=torch.int64),
            lengths=tuple(lengths),
            parents=tuple(parents),
            leaves=tuple(leaves),
            trained=tuple(trained),
            predictors=torch.tensor(predictors, dtype=torch.int64),
            targets=torch.tensor(targets, dtype=torch.int64),
            sequence=torch.repeat_interleave(torch.arange(len(trained)), counts),
            ends=torch.tensor(ends, dtype=torch.int64),
        )

    @cached_property
    def offsets(self) -> list[int]:
        """Where each segment starts in the flat row, and where the last one ends. [S + 1]"""
        return list(accumulate(self.lengths, initial=0))

    @cached_property
    def trained_before(self) -> list[int]:
        """Trained tokens before each leaf, and of all leaves. [Q + 1]"""
        return list(accumulate(self.trained, initial=0))

    def path(self, segment: int) -> list[int]:
        """The segments from the root down to this one, itself included."""
        path = [segment]
        while (parent := self.parents[path[-1]]) >= 0:
            path.append(parent)
        return path[::-1]

    def select(self, first: int, last: int) -> Self:
        """The forest of the leaves `first <= q < last` with their ancestors; each cut repeats shared prompts."""
        wanted = sorted({s for leaf in self.leaves[first:last] for s in self.path(leaf)})
        new_index = {old: new for new, old in enumerate(wanted)} | {-1: -1}
        offsets, shift, total = self.offsets, {}, 0
        for segment in wanted:
            shift[segment] = total - offsets[segment]
            total += self.lengths[segment]
        pieces = [slice(offsets[s], offsets[s] + self.lengths[s]) for s in wanted]
        low, high = self.trained_before[first], self.trained_before[last]
        starts = torch.tensor([offsets[s] for s in wanted], device=self.tokens.device)
        moved = torch.tensor([shift[s] for s in wanted], device=self.tokens.device)

        def move(places: Tensor) -> Tensor:
            return places + moved[torch.searchsorted(starts, places, right=True) - 1]

        return dataclasses.replace(
            self,
            tokens=torch.cat([self.tokens[piece] for piece in pieces]),
            positions=torch.cat([self.positions[piece] for piece in pieces]),
            lengths=tuple(self.lengths[s] for s in wanted),
            parents=tuple(new_index[self.parents[s]] for s in wanted),
            leaves=tuple(new_index[s] for s in self.leaves[first:last]),
            trained=self.trained[first:last],
            predictors=move(self.predictors[low:high]),
            targets=self.targets[low:high],
            sequence=self.sequence[low:high] - first,
            ends=move(self.ends[first:last]),
        )

    def nothing(self) -> Self:
        """A forest of one token and no leaf: what a process computes when the others have a part more than it has."""
        none = self.tokens[:0]
        return dataclasses.replace(
            self, tokens=self.tokens[:1], positions=self.positions[:1] * 0, lengths=(1,), parents=(-1,), leaves=(),
            trained=(), predictors=none, targets=none, sequence=none, ends=none,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Self:
        """The same forest on the device."""
        return _move(self, device)


def per(axis: str) -> Any:
    """A batch field with one value per "token" [M], "sequence" [Q] or "atom" [A], cut along with the batch."""
    if axis not in ("token", "sequence", "atom"):
        raise ValueError(f"axis {axis!r}: a batch field is per token, sequence or atom")
    return field(metadata={"per": axis})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's share of one optimiser step. Subclasses add tensors declared with `per(axis)`.

    An atom is what the loss cannot look inside of: a token, a sequence or a pair. The loss of a batch is the sum of
    the losses of its parts, for every cut between atoms.
    """

    forest: TokenForest
    atom: Tensor  # [M] int64, ascending from 0: the atom each trained token belongs to
    units: dict[str, float]  # per loss term, what its sum is divided by; counted over the whole step

    def cut(self, max_tokens: int) -> list[Self]:
        """Parts of at most `max_tokens` tokens where the atoms allow it, in order; prompts repeat, units are kept."""
        forest = self.forest
        parts: list[Self] = []
        start = done = size = 0  # the part at hand holds the leaves from start to done, and so many tokens
        held: set[int] = set()  # its segments
        for end in self._atom_ends():
            path = {s for leaf in forest.leaves[done:end] for s in forest.path(leaf)}
            grown = size + sum(forest.lengths[s] for s in path - held)
            if held and grown > max_tokens:
                parts.append(self.select(start, done))
                start, held, grown = done, set(), sum(forest.lengths[s] for s in path)
            held, size, done = held | path, grown, end
        return [*parts, self.select(start, done)] if parts else [self]

    def _atom_ends(self) -> list[int]:
        """The leaves after which the batch may be cut: those whose atoms do not go on in the next leaf."""
        atoms = self.atom.tolist()
        ends, place = [], 0
        for leaf, count in enumerate(self.forest.trained, start=1):
            place += count
            if place == len(atoms) or atoms[place] != atoms[place - 1]:
                ends.append(leaf)
        return ends

    def select(self, first: int, last: int) -> Self:
        """The part of the batch with the leaves `first <= q < last`."""
        low, high = self.forest.trained_before[first], self.forest.trained_before[last]
        atoms = (int(self.atom[low]), int(self.atom[high - 1]) + 1) if high > low else (0, 0)
        span = {"token": slice(low, high), "sequence": slice(first, last), "atom": slice(*atoms)}
        cut: dict[str, Any] = {name: values[span[axis]] for name, values, axis in self._given()}
        return dataclasses.replace(
            self, forest=self.forest.select(first, last), atom=self.atom[low:high] - atoms[0], **cut
        )

    def nothing(self) -> Self:
        """A part without a leaf, whose loss is zero; it keeps processes in step."""
        empty: dict[str, Any] = {name: values[:0] for name, values, _ in self._given()}
        return dataclasses.replace(self, forest=self.forest.nothing(), atom=self.atom[:0], **empty)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on the device."""
        return _move(self, device)

    @classmethod
    def _fields(cls) -> list[tuple[dataclasses.Field[Any], str]]:
        return [(f, f.metadata["per"]) for f in dataclasses.fields(cls) if "per" in f.metadata]

    def _given(self) -> list[tuple[str, Tensor, str]]:
        """The fields that hold a tensor, with their axis; one that may be None and is stays so in every part."""
        named = [(f.name, getattr(self, f.name), axis) for f, axis in self._fields()]
        return [entry for entry in named if entry[1] is not None]


_Record = TypeVar("_Record", TokenForest, Batch)


def _move(record: Any, device: torch.device | str) -> Any:
    moved = {
        f.name: value.to(device)
        for f in dataclasses.fields(record)
        if isinstance(value := getattr(record, f.name), Tensor | TokenForest)
    }
    return dataclasses.replace(record, **moved)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a loss may see of the model."""

    logprobs: Tensor  # [M] float32, log-probability of each trained token; [0] from a learner of scores alone
    correct: Tensor | None = None  # [M] bool, the token was the most likely one
    entropy: Tensor | None = None  # [M] float32 nats, where asked for; has a gradient only as "entropy_grad"
    log_collision: Tensor | None = None  # [M] float32, log sum_v p_v^2, where asked for; without a gradient
    mean_logprobs: Tensor | None = None  # [M] float32, mean of log p_v over the vocabulary, where asked for
    values: Tensor | None = None  # [M] float32, the value model's estimate at each predictor
    scores: Tensor | None = None  # [Q] float32, the score head's output at each end
    end_values: Tensor | None = None  # [Q] float32, the value model's estimate after each end


Metrics = dict[str, tuple[Tensor | float, Tensor | float]]  # name -> (sum, count), detached


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a loss returns: sums, never means. The engine divides each term by its unit of the whole step."""

    terms: dict[str, Tensor]  # name -> scalar, weighted, differentiable
    metrics: Metrics = field(default_factory=dict)


Message = dict[str, Any]  # "role", "content", and what else a chat template knows
Prompt = str | Sequence[Message] | Sequence[int]  # a user's message, a conversation, or tokens as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How completions are drawn. `temperature=0` takes the likeliest token; the other limits leave all tokens in."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # of the likeliest token's probability
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()  # texts that end a completion and are cut off its text

    def __post_init__(self) -> None:
        for name, value, allowed, fits in (
            ("max_tokens", self.max_tokens, "at least 1", self.max_tokens >= 1),
            ("temperature", self.temperature, "at least 0", 0 <= self.temperature < float("inf")),
            ("top_p", self.top_p, "above 0 and at most 1", 0 < self.top_p <= 1),
            ("top_k", self.top_k, "at least 0, where 0 is all tokens", self.top_k >= 0),
            ("min_p", self.min_p, "at least 0 and at most 1", 0 <= self.min_p <= 1),
            ("repetition_penalty", self.repetition_penalty, "above 0", self.repetition_penalty > 0),
            ("stop", self.stop, "texts that are not empty", all(self.stop)),
        ):
            if not fits:
                raise ConfigError(f"{name}={value!r} must be {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a model wrote after a prompt.

    `logprobs` belong to softmax(logits / temperature) over the whole vocabulary (greedy: to softmax(logits)): top-p,
    top-k, min-p and the penalty restrict what is drawn and are not in them.
    """

    text: str  # without the token or the stop text that ended it, otherwise as written
    finish_reason: str  # "stop" (an end token or a stop text) or "length"
    tokens: tuple[int, ...] | None = None  # the end token included; None where a sampler sees text only
    logprobs: tuple[float, ...] | None = None  # of each token
    prompt_tokens: int | None = None


class Sampler(Protocol):
    """What answers prompts: a model here, or one behind an endpoint."""

    @property
    def gives_tokens(self) -> bool:
        """Whether completions carry token ids and log-probs; without them a sampler is refused for RL."""
        ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        count: int = 1,
        seed: int = 0,
        keys: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """A group of `count` completions for each prompt, in order.

        A token is decided by (seed, the prompt's key, number in the group, position): how prompts are batched changes
        nothing. A key is the prompt's index unless given. `progress(done, total)` counts completions.
        """
        ...


@dataclass(frozen=True, slots=True)
class Unjudged:
    """In place of a reward: the verifier timed out or died, so nothing is known about the completion."""

    reason: str


Reward = Callable[..., Any]
"""`f(prompts, completions, completion_ids, **columns) -> list[float | None | Unjudged]`, or a coroutine function.

One value a completion: None where the reward does not apply. Prompts and completions are texts, or messages where the
prompt is a conversation; every column of the dataset comes along, repeated for each completion.
"""


class Source(Protocol):
    """Where batches come from: a dataset, or prompts that are sampled, scored and turned into advantages."""

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        ...

    def next(self) -> Batch | None:
        """The next step's batch, uncut, or None when there is no more."""
        ...

    def metrics(self) -> Metrics:
        """What the source itself measured for the batch it gave last: rewards, lengths, groups without signal."""
        ...

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Told the step's metrics after it: adaptive coefficients, early stops, sampler refresh."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
