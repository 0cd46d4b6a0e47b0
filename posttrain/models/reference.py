"""Log-probabilities under a model that does not change: kept on disk by content hash, or asked again while training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from posttrain.models.learner import Learner
from posttrain.types import Batch, Segment, TokenForest


def content_hash(model: nn.Module, trees: Sequence[Segment], precision: str) -> str:
    """A hash of the weights, the tokens, what is trained of them, and the precision of the computation."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(precision.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for tree in trees:
        digest.update(repr(tree.shape()).encode())
    return digest.hexdigest()


def with_reference(
    trees: Sequence[Segment],
    learner: Learner,
    *,
    directory: Path,
    max_tokens: int,
    autocast: Callable[[], Any],
    precision: str,
    share: tuple[int, int] = (0, 1),
    gather: Callable[[Any], list[Any]] = lambda mine: [mine],
    quiet: bool = False,
    rows: int | None = None,
) -> tuple[list[Segment], str]:
    """The trees with a column `ref_logprobs` on every leaf, and the hash that the values are kept under.

    `share` is (rank, processes): each process computes every so-manieth tree, and `gather` gives everyone's values.
    `rows` is the most trees that a pass takes.
    """
    key = content_hash(learner.model, trees, precision)
    file = directory / f"{key}.safetensors"
    if all(gather(file.exists())):  # nodes may have disks of their own
        flat = load_file(file)["ref_logprobs"]
    else:
        rank, world_size = share
        mine = trees[rank::world_size]
        everyone = gather(tree_logprobs(mine, learner, max_tokens, autocast, quiet=quiet, rows=rows))
        ordered = [everyone[i % world_size][i // world_size] for i in range(len(trees))]
        flat = torch.tensor([value for values in ordered for value in values], dtype=torch.float32)
        if not file.exists():
            directory.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".partial-{rank}")
            save_file({"ref_logprobs": flat}, partial)
            partial.replace(file)
    return _attach(trees, flat), key


def _trained(leaf: Segment) -> int:
    return sum(end - begin for begin, end in leaf.trained)


class StartingWeights:
    """The trainable weights as they are now, to be put back for a moment when the run's first model is asked.

    With a fresh adapter that is the adapter that does nothing, with a trained one a copy of it, never the bare base.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (parameter, parameter.detach().clone()) for parameter in model.parameters() if parameter.requires_grad
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The model is the one of the start inside, and exactly what it was outside."""
        now = [parameter.data for parameter, _ in self._kept]
        for parameter, start in self._kept:
            parameter.data = start
        try:
            yield
        finally:
            for (parameter, _), data in zip(self._kept, now):
                parameter.data = data


class FollowingWeights(StartingWeights):
    """The weights of a reference that is moved towards the trained model now and then: TR-DPO, arXiv:2404.09656."""

    FILE = "reference.safetensors"

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """`share` of the model as it is now, the rest as before."""
        for parameter, kept in self._kept:
            kept.lerp_(parameter.detach(), share)

    def save(self, directory: Path) -> None:
        """Writes the weights beside a checkpoint, in the order of the model's parameters."""
        save_file({str(i): kept for i, (_, kept) in enumerate(self._kept)}, directory / self.FILE)

    def load(self, directory: Path) -> None:
        """Takes over the weights that were saved there."""
        saved = load_file(directory / self.FILE)
        for i, (_, kept) in enumerate(self._kept):
            kept.copy_(saved[str(i)])


def asked_now(
    trees: Sequence[Segment],
    learner: Learner,
    weights: Callable[[], AbstractContextManager[None]],
    *,
    max_tokens: int,
    autocast: Callable[[], Any],
) -> list[Segment]:
    """The trees with a column `ref_logprobs`, computed now by the learner with other weights."""
    with weights():
        values = tree_logprobs(trees, learner, max_tokens, autocast)
    return _attach(trees, torch.tensor([value for row in values for value in row], dtype=torch.float32))


@torch.no_grad()
def tree_logprobs(
    trees: Sequence[Segment],
    learner: Learner,
    max_tokens: int,
    autocast: Callable[[], Any],
    *,
    quiet: bool = True,
    rows: int | None = None,
) -> list[list[float]]:
    """Per tree, the log-probabilities of its trained tokens, leaf after leaf; a pass takes at most so many `rows`."""
    if not trees:
        return []
    if rows is not None and rows < len(trees):
        chunks = [trees[i : i + rows] for i in range(0, len(trees), rows)]
        return [values for c in chunks for values in tree_logprobs(c, learner, max_tokens, autocast, quiet=True)]
    device, was_training = next(learner.parameters()).device, learner.training
    learner.eval()
    forest = TokenForest.from_trees(trees)
    owner = torch.tensor([i for i, tree in enumerate(trees) for _ in tree.leaves()])
    batch = Batch(forest=forest, atom=owner[forest.sequence], units={})
    values: list[float] = []
    with tqdm(total=len(forest.tokens), desc="reference", unit="token", disable=True if quiet else None) as bar:
        for part in batch.cut(max_tokens):
            with autocast():
                values += learner(part.forest.to(device)).logprobs.tolist()
            bar.update(len(part.forest.tokens))
    learner.train(was_training)
    counts = [sum(_trained(leaf) for leaf in tree.leaves()) for tree in trees]
    return _split(values, counts)


def _split(values: list[float], counts: list[int]) -> list[list[float]]:
    chunks, place = [], 0
    for count in counts:
        chunks.append(values[place : place + count])
        place += count
    return chunks


def _attach(trees: Sequence[Segment], flat: torch.Tensor) -> list[Segment]:
    values, place = flat.tolist(), 0

    def attach(segment: Segment) -> Segment:
        nonlocal place
        if segment.children:
            return replace(segment, children=[attach(child) for child in segment.children])
        count = _trained(segment)
        place += count
        return replace(segment, columns={**segment.columns, "ref_logprobs": values[place - count : place]})

    return [attach(tree) for tree in trees]
