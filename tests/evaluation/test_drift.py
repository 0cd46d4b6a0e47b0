"""Drift between models: nothing for equal ones, the brute-force numbers for others, the same however it is computed."""

import json
import math

import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.evaluation.drift import DriftProbe, drift_between, drift_metrics, spread, write_drift
from posttrain.models.divergence import Moment
from posttrain.models.learner import Learner
from posttrain.models.reference import StartingWeights

TEXTS = ["The capital of France is Paris.", "Two and three are five.", "A red fox and a grey wolf."]
PROMPTS = [[40, 50, 60], [70, 80], [90, 100, 110, 120], [33]]  # tokens as they are


def moved(by=0.05, arch="qwen3"):
    model = build_model(arch)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


def measure(before, after, **options):
    options = {"prompts": PROMPTS, "neutral": TEXTS, "max_new_tokens": 6} | options
    return drift_between(before, after, build_tokenizer(), **options)


def table(model, tokens):
    """log p of every token of the vocabulary at every position but the first, [T - 1, V] float64."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def test_equal_models_have_not_moved_at_all():
    found = measure(build_model("qwen3"), build_model("qwen3"))
    for one in found.values():
        assert (one.kl_forward.estimate, one.kl_forward.low, one.kl_forward.high) == (0.0, 0.0, 0.0)
        assert one.kl_reverse.estimate == one.kl_reverse.high == 0.0
        assert one.changed_greedy.estimate == 0.0
        assert one.entropy_before == pytest.approx(one.entropy_after)
        assert one.length_before == one.length_after
    assert found["prompts"].texts == 4
    assert found["neutral"].length_before is None


def test_text_gives_the_brute_force_numbers():
    before, after, tokenizer = build_model("qwen3"), moved(), build_tokenizer()
    pairs = [tuple(table(model, tokenizer(text).input_ids) for model in (before, after)) for text in TEXTS]
    tokens = sum(len(p) for p, _ in pairs)
    forward, reverse = (
        float(sum(kl(*pair).sum() for pair in way) / tokens) for way in (pairs, [p[::-1] for p in pairs])
    )
    found = measure(before, after)["neutral"]
    assert found.tokens == tokens
    assert found.kl_forward.estimate == pytest.approx(forward, rel=1e-4)
    assert found.kl_reverse.estimate == pytest.approx(reverse, rel=1e-4)
    changed = float(sum((p.argmax(-1) != q.argmax(-1)).sum() for p, q in pairs))
    assert found.changed_greedy.estimate == pytest.approx(changed / tokens)
    entropy = -float(sum((q.exp() * q).sum() for _, q in pairs) / tokens)
    assert found.entropy_after == pytest.approx(entropy, rel=1e-4)
    assert found.kl_forward.low < found.kl_forward.estimate < found.kl_forward.high


def greedy(model, prompt, length):
    tokens = list(prompt)
    while len(tokens) < len(prompt) + length:
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == 0:
            break
    return tokens


@torch.no_grad()
def test_on_prompts_each_direction_goes_along_the_answers_of_its_own_model():
    before, after = build_model("qwen3"), moved()
    found = measure(before, after, temperature=0.0)["prompts"]
    firsts, seconds = ([greedy(model, prompt, 6) for prompt in PROMPTS] for model in (before, after))

    def along(rows, value):
        parts = [value(table(before, r), table(after, r))[len(p) - 1 :] for r, p in zip(rows, PROMPTS)]
        return torch.cat(parts).mean().item()

    assert found.kl_forward.estimate == pytest.approx(along(firsts, kl), rel=1e-4)
    assert found.kl_reverse.estimate == pytest.approx(along(seconds, lambda p, q: kl(q, p)), rel=1e-4)
    assert found.entropy_before == pytest.approx(along(firsts, lambda p, q: -(p.exp() * p).sum(-1)), rel=1e-4)
    assert found.entropy_after == pytest.approx(along(seconds, lambda p, q: -(q.exp() * q).sum(-1)), rel=1e-4)
    assert found.changed_greedy.estimate == sum(a != b for a, b in zip(firsts, seconds)) / 4 > 0
    lengths = [sum(len(r) - len(p) for r, p in zip(rows, PROMPTS)) for rows in (firsts, seconds)]
    assert (found.length_before, found.length_after) == (lengths[0] / 4, lengths[1] / 4)
    assert found.tokens == sum(lengths)


def test_neither_the_cut_nor_the_memory_changes_the_numbers_and_a_second_look_is_the_same():
    before, after = build_model("qwen3"), moved()
    first = measure(before, after)
    assert measure(before, after) == first
    other = measure(before, after, max_tokens=4, memory_bytes=1)
    for name, one in other.items():
        assert one.kl_forward.estimate == pytest.approx(first[name].kl_forward.estimate, rel=1e-5)
        assert one.kl_reverse.estimate == pytest.approx(first[name].kl_reverse.estimate, rel=1e-5)


def test_one_model_at_two_times_equals_two_models_and_nothing_is_left_changed():
    model = build_model("qwen3")
    learner = Learner(model)
    probe = DriftProbe(
        Moment(learner=learner, during=StartingWeights(model)),
        build_tokenizer(), prompts=PROMPTS, neutral=TEXTS, max_new_tokens=6,
    )  # fmt: skip
    assert probe(Moment(learner=learner))["prompts"].kl_forward.estimate == 0.0
    model.load_state_dict(moved().state_dict())
    random, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    found = probe(Moment(learner=learner))
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    for name, one in measure(build_model("qwen3"), moved()).items():
        assert found[name] == one


def test_a_bigger_move_is_a_bigger_drift():
    small, large = (measure(build_model("qwen3"), moved(by))["neutral"] for by in (0.01, 0.1))
    assert 0 < small.kl_forward.high < large.kl_forward.low
    assert small.kl_reverse.estimate < large.kl_reverse.estimate


def test_fewer_texts_are_taken_from_everywhere():
    assert spread(list(range(10)), 3) == [0, 3, 6]
    assert spread([1, 2], None) == spread([1, 2], 5) == [1, 2]
    found = measure(build_model("qwen3"), moved(), texts=2)
    assert (found["prompts"].texts, found["neutral"].texts) == (2, 2)


def test_what_cannot_be_measured_is_told():
    before = build_model("qwen3")
    with pytest.raises(ConfigError, match="both are empty"):
        measure(before, before, prompts=[], neutral=[])
    with pytest.raises(ConfigError, match="texts=0"):
        measure(before, before, texts=0)
    with pytest.raises(DataError, match="neutral text 2 is 'A'"):
        measure(before, before, neutral=["fine and long", "A"])
    broken = build_model("qwen3")
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        measure(before, broken, prompts=[])
    learner = Learner(before)
    start = Moment(learner=learner, during=StartingWeights(before))
    probe = DriftProbe(start, build_tokenizer(), neutral=TEXTS)
    with torch.no_grad():
        before.lm_head.weight[5] = math.nan
    with pytest.raises(ModelError, match="not finite on text 1"):
        probe(Moment(learner=learner))


def test_the_file_and_the_log_have_their_names(tmp_path):
    found = measure(build_model("qwen3"), moved(), prompts=[[40, 50]], neutral=TEXTS)
    write_drift(tmp_path / "drift.json", found)
    read = json.loads((tmp_path / "drift.json").read_text())
    assert set(read) == {"prompts", "neutral"}
    names = {"kl_forward", "kl_reverse", "changed_greedy", "entropy_before", "entropy_after", "length_before"}
    assert set(read["neutral"]) == names | {"length_after", "texts", "tokens", "text_before", "text_after"}
    assert read["prompts"]["kl_forward"]["low"] is None  # one prompt has no interval, and JSON no NaN
    assert read["neutral"]["kl_forward"]["high"] == found["neutral"].kl_forward.high
    metrics = drift_metrics(found)
    assert metrics["drift/prompts/kl_forward"] == found["prompts"].kl_forward.estimate
    assert "drift/neutral/length_after" not in metrics
    assert metrics["generation/empty"] == read["prompts"]["text_after"]["generation/empty"]
    assert read["neutral"]["text_after"] is None
