"""A choice of rows that differ: the best of each cluster, or rows as far from each other as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.curation.filters.words import words

DIMENSIONS = 128  # of a vector of TF-IDF
FEATURES = 1 << 17  # that words are hashed to
MOST_CLUSTERS = 256
_CHUNK = 2000

Vectors = NDArray[np.float32]
Texts = Callable[[], Iterable[str]]  # the same texts every time it is called


def tfidf_vectors(texts: Texts, count: int) -> Vectors:
    """[count, DIMENSIONS] of length 1: each text's words, rare ones weighing more.

    A word's weight is log(1 + times in the text) * (log((1 + texts) / (1 + texts with it)) + 1). Vectors are projected
    at random, which keeps cosines to about 0.09; the texts are read twice and not held.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        analyzer=words, n_features=FEATURES, alternate_sign=False, norm=None, dtype=np.float32
    )  # fmt: skip
    holding = np.zeros(FEATURES, np.int64)
    for chunk in _chunks(texts()):
        holding += np.bincount(hashing.transform(chunk).indices, minlength=FEATURES)
    weight = (np.log((1 + count) / (1 + holding)) + 1).astype(np.float32)
    signs = np.random.default_rng(2997).integers(0, 2, (FEATURES, DIMENSIONS), dtype=np.int8)
    table = (signs.astype(np.float32) * 2 - 1) / np.float32(DIMENSIONS**0.5)
    result = np.empty((count, DIMENSIONS), np.float32)
    at = 0
    for chunk in _chunks(texts()):
        found = hashing.transform(chunk)
        found.data = np.log1p(found.data) * weight[found.indices]
        result[at : at + len(chunk)] = found @ table
        at += len(chunk)
    return _unit(result)


def embedding_vectors(texts: Texts, count: int, name: str, *, max_length: int = 2048) -> Vectors:
    """[count, H] of length 1: the mean of a model's last hidden states over each text's tokens."""
    from posttrain.models.loading import load_model, load_tokenizer
    from posttrain.models.quiet import no_progress_bars

    with no_progress_bars():
        model, tokenizer = load_model(name), load_tokenizer(name)
    return embeddings(texts(), count, model, tokenizer, max_length=max_length)


def embeddings(texts: Iterable[str], count: int, model: Any, tokenizer: Any, *, max_length: int = 2048) -> Vectors:
    """The same with a model at hand."""
    import torch

    rows: list[Vectors] = []
    with torch.inference_mode():
        for chunk in _chunks(texts, 16):
            ids = [tokenizer(t, verbose=False).input_ids[:max_length] or [tokenizer.eos_token_id or 0] for t in chunk]
            longest = max(map(len, ids))
            padded = torch.tensor([[*one, *[0] * (longest - len(one))] for one in ids], device=model.device)
            mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids], device=model.device)
            states = model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states[-1].float()
            means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            rows.append(means.cpu().numpy().astype(np.float32))
    return _unit(np.concatenate(rows)) if rows else np.empty((0, 1), np.float32)


def from_clusters(
    vectors: Vectors, size: int, scores: NDArray[np.float64] | None = None, *, seed: int = 0
) -> NDArray[np.int64]:
    """The numbers of `size` rows, ascending: of each cluster the best, then of each the second best, and so on.

    Best are high scores; without scores, rows near the middle of their cluster. There are as many clusters as rows are
    wanted, at most MOST_CLUSTERS.
    """
    from sklearn.cluster import MiniBatchKMeans

    count = len(vectors)
    if size >= count:
        return np.arange(count)
    clusters = MiniBatchKMeans(
        min(size, MOST_CLUSTERS), random_state=seed, n_init=1, batch_size=4096, max_iter=50
    ).fit(vectors)  # fmt: skip
    own = clusters.labels_
    goodness = scores
    if goodness is None:
        goodness = -np.linalg.norm(vectors - clusters.cluster_centers_[own], axis=1).astype(np.float64)
    order = np.lexsort((np.arange(count), -goodness, own))
    sorted_own = own[order]
    starts = np.searchsorted(sorted_own, sorted_own)
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count) - starts
    return np.sort(np.lexsort((np.arange(count), -goodness, rank))[:size])


def k_centres(vectors: Vectors, size: int) -> NDArray[np.int64]:
    """The numbers of `size` rows, ascending: first the most typical, then always the one farthest from those chosen.

    The greedy 2-approximation of the k-centre problem; the time is proportional to rows times `size`.
    """
    count = len(vectors)
    if size >= count:
        return np.arange(count)
    chosen = [int(np.argmax(vectors @ vectors.mean(axis=0)))]
    nearest = np.full(count, np.inf, np.float32)
    while len(chosen) < size:
        nearest = np.minimum(nearest, 1 - vectors @ vectors[chosen[-1]])
        nearest[chosen] = -1
        chosen.append(int(np.argmax(nearest)))
    return np.sort(np.array(chosen))


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def _chunks(texts: Iterable[str], size: int = _CHUNK) -> Iterator[Sequence[str]]:
    from posttrain.curation.filters.processes import chunked

    return chunked(texts, size)
