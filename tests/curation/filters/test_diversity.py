"""A choice of rows that differ."""

import numpy as np
import pytest
from tiny import build_model, build_tokenizer

from posttrain.curation.filters.diversity import embeddings, from_clusters, k_centres, tfidf_vectors

TOPICS = ("red fox forest tree", "prime number theorem proof", "小红做饭吃面条", "python code function loop")


def texts(each=30):
    rng = np.random.default_rng(0)
    return [
        " ".join(rng.choice(list(topic) if topic.isalpha() and not topic.isascii() else topic.split(), 12))
        for topic in TOPICS
        for _ in range(each)
    ]


def test_vectors_have_length_one_and_tell_topics_apart():
    rows = texts()
    vectors = tfidf_vectors(lambda: iter(rows), len(rows))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    same = np.arange(120)[:, None] // 30 == np.arange(120) // 30
    assert cosines[same].mean() > 0.7
    assert abs(cosines[~same].mean()) < 0.1
    assert np.array_equal(vectors, tfidf_vectors(lambda: iter(rows), len(rows)))


@pytest.mark.parametrize("choose", [from_clusters, k_centres])
def test_every_topic_is_chosen_from(choose):
    rows = texts()
    chosen = choose(tfidf_vectors(lambda: iter(rows), len(rows)), 4)
    assert sorted(number // 30 for number in chosen.tolist()) == [0, 1, 2, 3]
    assert len(choose(tfidf_vectors(lambda: iter(rows), len(rows)), 500)) == 120


def test_the_best_of_each_cluster_is_chosen():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    scores = np.array([1, 9, 2, 3, 0, 0, 5, 0, 7, 7, 1, 8], float)
    assert from_clusters(vectors, 3, scores).tolist() == [1, 6, 11]


def test_k_centres_by_hand():
    # On a circle at 0, 10, 20, 90 and 180 degrees: the mean points to about 49 degrees, so that 20 is the most typical;
    # then 180, farthest from it, then 90, which is 70 and 90 degrees from them.
    angles = np.radians([0, 10, 20, 90, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert k_centres(vectors, 1).tolist() == [2]
    assert k_centres(vectors, 2).tolist() == [2, 4]
    assert k_centres(vectors, 3).tolist() == [2, 3, 4]


def test_embeddings_are_means_over_tokens_whatever_they_are_batched_with():
    model, tokenizer = build_model("llama"), build_tokenizer()
    rows = ["Who are you?", "A short story about a red fox and a grey wolf.", "Seven"]
    together = embeddings(rows, 3, model, tokenizer)
    for row, vector in zip(rows, together):
        alone = embeddings([row], 1, model, tokenizer)[0]
        assert np.allclose(alone, vector, atol=1e-5)
    assert not np.allclose(together[0], together[2], atol=1e-2)
