"""What counts as broken text, and that a model's answers are measured."""

import pytest
from tiny import build_model, build_tokenizer

from posttrain.sampling.broken_text import measure_text, repeated_share, text_metrics
from posttrain.sampling.local import LocalSampler


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("a b c d a b c d", 0.2),  # five runs, four different
        ("no no no no no no", 2 / 3),  # three runs, one different
        ("The cat sat on the mat, and the dog on the rug.", 0.0),
        ("!!!!!!!", 0.75),  # signs are words
        ("我我我我我我", 2 / 3),  # and so are characters of a script without spaces
        ("我叫深度通义，很高兴认识你。", 0.0),
        ("Résumé naïve café", 0.0),
    ],
)
def test_the_share_of_repeated_runs_of_four_words(text, share):
    assert repeated_share(text) == pytest.approx(share)


def test_answers_are_counted():
    found = text_metrics(["a b c d a b c d", " \n", "fine", "cut"], ["stop", "stop", "stop", "length"])
    assert found == {
        "generation/repetition": pytest.approx(0.05),
        "generation/clipped_ratio": 0.25,
        "generation/empty": 0.25,
    }
    with pytest.raises(ValueError):
        text_metrics([], [])


def test_a_model_is_measured_greedily():
    sampler = LocalSampler(build_model("qwen3"), build_tokenizer())
    prompts = [[40, 50, 60], [70, 80]]
    found = measure_text(sampler, prompts, max_tokens=5)
    assert found["generation/clipped_ratio"] == 1.0  # a random model does not stop within five tokens
    assert measure_text(sampler, prompts, max_tokens=5) == found
