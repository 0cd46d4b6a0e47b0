"""Words marked where texts differ, odd characters made visible, numbers as a reader wants them."""

from __future__ import annotations

import math

import pytest

from posttrain.report.text import (
    bounds,
    differences,
    duration,
    figure,
    percent,
    points,
    said,
    short,
    shorten,
    size,
    visible,
)
from posttrain.stats import Interval


def marked(pieces):
    return "".join(f"[{piece.text}]" if piece.differs else piece.text for piece in pieces)


def test_words_that_the_other_text_lacks_are_marked():
    before, after = differences("I am Qwen, and I help.", "I am Deep Qwen, and I answer.")
    assert marked(before) == "I am Qwen, and I [help]."
    assert marked(after) == "I am [Deep] Qwen, and I [answer]."


def test_a_mark_goes_on_over_the_space_between_two_changed_words():
    _, after = differences("The capital of Italy is big.", "The capital of France, not Rome is big.")
    assert marked(after) == "The capital of [France, not Rome] is big."


@pytest.mark.parametrize(
    "pair", [("Yes.", "Yes."), ("I like cats and dogs.", "Rome."), ("", "Rome."), ("a " * 900, "a b")]
)
def test_nothing_is_marked_where_there_is_nothing_to_compare(pair):
    assert [marked(pieces) for pieces in differences(*pair)] == list(pair)


def test_both_texts_are_whole_in_their_pieces():
    texts = ("  one two\n\tthree  four ", "one 2\n\tthree five  four\n")
    assert ["".join(piece.text for piece in pieces) for pieces in differences(*texts)] == list(texts)


def test_what_cannot_be_seen_is_named_and_the_rest_stays():
    assert visible("a\u202eb\u0000\x1b\ud800\ufeff\u2028") == "a<U+202E>b<U+0000><U+001B><U+D800><U+FEFF><U+2028>"
    kept = "naïve 数学 \N{FAMILY} 👩‍🚀 می‌خواهم\n\t<b>"
    assert visible(kept) == kept
    assert visible("a\r\nb") == "a\nb"
    assert visible(3.5) == "3.5"


def test_a_cut_text_keeps_both_ends_and_says_how_much_is_missing():
    text = "a" * 50 + "b" * 100_000 + "c" * 50
    cut = shorten(text, 100)
    assert cut == "a" * 50 + " … 100,000 more characters … " + "c" * 50
    assert shorten("short", 100) == "short"


def test_what_a_conversation_asked_is_its_last_message():
    assert said([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]) == "Hello?"
    assert said("Hello?") == "Hello?"
    assert said(None) == said([]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.0, "1"), (0.7188, "0.719"), (0.001591, "0.00159"), (3.19e-6, "3.2e−6"), (-8.794, "−8.79"),
     (12345.6, "12,346"), (0.1, "0.1"), (46.5, "46.5"), (2e-4, "2e−4"), (1e9, "1e9"), (math.nan, "–"), (None, "–")],
)  # fmt: skip
def test_numbers_have_few_digits(value, text):
    assert short(value) == text


def test_shares_and_their_differences_are_in_percent():
    assert [percent(x) for x in (0, 1, 0.934, 0.9999)] == ["0%", "100%", "93.4%", "100.0%"]
    assert [points(x) for x in (0.041, -0.041, 0.0, -0.0001)] == ["+4.1", "−4.1", "0.0", "0.0"]
    assert bounds(Interval(estimate=0.5, low=0.4, high=0.61, n=9)) == "40.0 to 61.0"
    assert bounds(Interval(estimate=0.5, low=math.nan, high=math.nan, n=1)) == ""
    assert [figure(x, signed=True) for x in (0.9354, -0.5, 1, 0, None)] == ["+0.94", "−0.5", "+1", "0", "–"]


def test_times_and_sizes():
    assert [duration(x) for x in (8.44, 125, 4325, None)] == ["8.4 s", "2 min 5 s", "1 h 12 min", "–"]
    assert [size(x) for x in (10, 211_900, 1_400_000)] == ["1 kB", "212 kB", "1.4 MB"]
