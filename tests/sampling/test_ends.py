"""Completions end at tokens and texts, wherever the borders of tokens are."""

import pytest

from posttrain.sampling.ends import Ends, end_tokens


@pytest.fixture
def ends(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    return lambda *stop: Ends(model, tiny_tokenizer, stop)


def test_end_tokens_are_the_tokenizers_the_templates_and_the_models(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    assert end_tokens(model, tiny_tokenizer) == [0, 2]
    model.generation_config.eos_token_id = [0, 77]
    assert end_tokens(model, tiny_tokenizer) == [0, 2, 77]
    model.generation_config = None
    assert end_tokens(model, tiny_tokenizer) == [0, 2]


@pytest.mark.parametrize("stop", ["France?", " The cap", "的", "é是", "s"])
def test_a_text_is_found_at_the_token_that_completes_it(stop, ends, tiny_tokenizer):
    text = "What is the capital of France? The capital é是的 of 的"
    found = ends(stop)
    tokens = tiny_tokenizer(text).input_ids
    place = next(n for n in range(1, len(tokens) + 1) if stop in tiny_tokenizer.decode(tokens[:n]))
    assert [found.at_text(tokens[:n]) for n in range(1, place + 1)] == [False] * (place - 1) + [True]
    assert found.text(tokens[:place], stopped=True) == text[: text.index(stop)]


def test_special_tokens_are_no_part_of_a_text(ends, tiny_tokenizer):
    found = ends("ab")
    a, b = tiny_tokenizer("a").input_ids, tiny_tokenizer("b").input_ids
    assert found.at_text([*a, 1, *b])  # decoded without special tokens it is there
    assert not found.at_text([*a, *b, 1])
    assert not ends().at_text([*a, *b])


def test_the_first_of_several_texts_counts(ends, tiny_tokenizer):
    tokens = tiny_tokenizer("one two three").input_ids
    assert ends("three", "two").text(tokens, stopped=True) == "one "
    assert ends("three", "two").text(tokens, stopped=False) == "one two three"


def test_the_token_that_ends_is_no_part_of_the_text(ends, tiny_tokenizer):
    tokens = tiny_tokenizer(" one ").input_ids
    assert ends().text([*tokens, 2], stopped=True) == " one "
    assert ends().text(tokens, stopped=False) == " one "


def test_text_that_may_change_is_held_back(ends, tiny_tokenizer):
    tokens = tiny_tokenizer("I am 是").input_ids
    assert ends().text_so_far(tokens[:-1]) == "I am "  # two bytes of three
    assert ends().text_so_far(tokens) == "I am 是"
    shown = ends("amb").text_so_far(tiny_tokenizer("I am").input_ids)
    assert shown == "I "
