"""Shingles, signatures and the index, with numbers worked by hand and against comparing all pairs."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.curation.filters import minhash
from posttrain.curation.filters.minhash import PLACES, bands, estimates, found, signatures
from posttrain.curation.filters.near_index import NearIndex
from posttrain.curation.filters.shingles import jaccard, runs, shingles, tokens


def sets(*texts):
    return shingles(tokens(texts))


def test_jaccard_by_hand():
    # ab bc cd de against ab bc cx xe: 2 shared of 6
    one, other = sets("a b c d e", "a b c x e")
    assert jaccard(one, other) == pytest.approx(2 / 6)
    assert jaccard(one, one) == 1
    assert jaccard(one, one[:0]) == 0


def test_case_signs_and_width_do_not_count():
    one, other = sets("Hello, World! Again", "hello world  ＡＧＡＩＮ")
    assert np.array_equal(one, other)


def test_chinese_is_compared_by_three_characters():
    # 我爱北 爱北京 北京天 against 我爱北 爱北京 北京城
    one, other = sets("我爱北京天", "我爱北京城")
    assert (len(one), len(other)) == (3, 3)
    assert jaccard(one, other) == pytest.approx(2 / 4)


def test_runs_do_not_cross_texts():
    hashes, owner, place = runs(tokens(["a b c", "d", "", "e f"]), 2)
    assert owner.tolist() == [0, 0, 3]
    assert place.tolist() == [0, 1, 0]
    assert len(set(hashes.tolist())) == 3
    assert [len(one) for one in sets("a b c", "d", "", "e f")] == [2, 0, 0, 1]


def test_the_share_of_edited_words_that_a_threshold_stands_for():
    # The module's formula, on long texts of distinct words
    rng = random.Random(0)
    for share, expected in ((0.05, 0.82), (0.1, 0.68), (0.2, 0.47)):
        words = [f"w{number}" for number in range(2000)]
        edited = list(words)
        for place in rng.sample(range(2000), int(2000 * share)):
            edited[place] = f"x{place}"
        assert jaccard(*sets(" ".join(words), " ".join(edited))) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("shared", [0, 100, 300, 450])
def test_estimates_are_within_their_error(shared):
    # 500 numbers each, `shared` of them in both: J = shared / (1000 - shared)
    rng = np.random.default_rng(shared)
    errors, true = [], shared / (1000 - shared)
    for _ in range(40):
        numbers = np.unique(rng.integers(0, 1 << 32, 1200, dtype=np.uint32))[:1000]
        numbers = rng.permutation(numbers)
        pair = [np.sort(numbers[:500]), np.sort(np.concatenate([numbers[:shared], numbers[500 : 1000 - shared]]))]
        laid = signatures(pair)
        errors.append(float(estimates(laid[:1], laid[1:])[0]) - true)
    deviation = (max(true, 1 / 256) * (1 - true) / PLACES) ** 0.5
    assert max(map(abs, errors)) < 4 * deviation + 1e-3
    assert abs(np.mean(errors)) < 4 * deviation / 40**0.5 + 1e-3


def test_signatures_do_not_depend_on_what_is_signed_together():
    rng = np.random.default_rng(1)
    many = [np.unique(rng.integers(0, 1 << 32, size, dtype=np.uint32)) for size in (3, 40_000, 0, 7, 500)]
    together = signatures(many)
    for one, signature in zip(many, together):
        assert np.array_equal(signatures([one])[0], signature)


def test_bands_by_hand():
    # 64 bands of 4: 1 - (1 - 0.4^4)^64 = 0.810; of 5 there are 51, with 0.408
    assert bands(0.4) == (64, 4)
    assert found(0.4, 64, 4) == pytest.approx(0.8101, abs=1e-3)
    assert found(0.4, 51, 5) == pytest.approx(0.4085, abs=1e-3)
    for threshold in (0.2, 0.3, 0.5, 0.7, 0.9, 1.0):
        count, places = bands(threshold)
        assert count * places <= PLACES
        assert found(threshold, count, places) >= minhash.FOUND


def noisy(rng, count, share):
    """Texts of which some are edits of earlier ones."""
    texts = []
    for _ in range(count):
        if texts and rng.random() < share:
            words = rng.choice(texts).split()
            for place in rng.sample(range(len(words)), rng.randint(0, len(words) // 4)):
                words[place] = f"w{rng.randrange(3000)}"
        else:
            words = [f"w{int(3000 * rng.random() ** 3)}" for _ in range(rng.randint(5, 60))]
        texts.append(" ".join(words))
    return texts


def greedy(all_sets, threshold):
    """Every row against every kept row: the slow way, without a signature."""
    kept, out = [], []
    for row, one in enumerate(all_sets):
        if len(one) >= 8 and any(len(all_sets[k]) >= 8 and jaccard(one, all_sets[k]) >= threshold for k in kept):
            out.append(row)
        else:
            kept.append(row)
    return out


@pytest.mark.parametrize("threshold", [0.4, 0.8])
def test_the_index_finds_what_comparing_all_pairs_finds(threshold):
    texts = noisy(random.Random(3), 800, 0.3)
    all_sets = sets(*texts)
    index = NearIndex(threshold)
    matches = [m for at in range(0, 800, 150) for m in judged(index, all_sets[at : at + 150])]
    removed = {row for row, match in enumerate(matches) if match is not None}
    slow = set(greedy(all_sets, threshold))
    assert len(slow) > 40
    # At the threshold itself one pair of five is missed, by design; a little above it hardly any.
    assert len(removed ^ slow) <= 0.05 * len(slow)
    kept = [row for row, match in enumerate(matches) if match is None]
    for row, match in enumerate(matches):
        if match is not None:
            other = kept[match.kept]
            assert other < row
            assert match.similarity == jaccard(all_sets[row], all_sets[other]) >= threshold


def judged(index, part):
    return index.judge(part, signatures(part))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 80), min_size=1, max_size=6))
def test_chunks_and_interruptions_do_not_change_what_is_kept(seed, sizes):
    all_sets = sets(*noisy(random.Random(seed), 120, 0.5))
    whole = judged(NearIndex(0.4), all_sets)
    index, parts, at = NearIndex(0.4), [], 0
    for size in [*sizes, 120]:
        parts += judged(index, all_sets[at : at + size])
        at += size
    assert parts == whole
    # Another process, which is told what was kept of the first sixty, goes on the same way.
    kept = [one for one, match in zip(all_sets[:60], whole) if match is None]
    again = NearIndex(0.4)
    again.add(kept, signatures(kept))
    assert judged(again, all_sets[60:]) == whole[60:]


def test_short_texts_are_left_to_the_exact_filter():
    short = sets("one two three", "one two three", "one two four")
    assert judged(NearIndex(0.4), short) == [None, None, None]


def test_a_crowded_bucket_is_walked_only_so_far():
    # 4,000 different rows whose signatures are all alike, which no real set does: time, not memory, is bounded
    index = NearIndex(0.9)
    rng = np.random.default_rng(0)
    rows = [np.unique(rng.integers(0, 1 << 32, 20, dtype=np.uint32)) for _ in range(2000)]
    same = np.zeros((2000, PLACES), np.uint8)
    index.add(rows, same)
    assert index.judge(rows[-3:], same[:3])[0].similarity == 1.0
