"""Weights and losses of offline reinforcement learning by hand, and against slow padded rows under every cut."""

import math

import pytest
import torch
from padded_rows import padded_logprobs
from tiny import build_model

from posttrain.algorithms.offline_rl import (
    OFFLINE_LOSSES,
    Judged,
    OfflineRLLoss,
    Weighting,
    offline_rl_batch,
)
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.models.layouts import LAYOUTS
from posttrain.models.learner import Learner
from posttrain.types import Outputs, Segment


def judged(advantage, reward=0.0, is_best=False):
    return Judged(reward=reward, advantage=advantage, is_best=is_best)


@pytest.mark.parametrize(
    ("loss", "answer", "given", "expected"),
    [
        ("awr", judged(0.0), {}, 1.0),
        ("awr", judged(1.0), {"temperature": 0.5}, math.e**2),
        ("awr", judged(-1.0), {"temperature": 0.5}, math.e**-2),
        ("awr", judged(3.0), {}, 20.0),  # e^3 is 20.09
        ("awr", judged(2.9), {}, math.exp(2.9)),
        ("awr", judged(1e9), {"max_weight": 0.5}, 0.5),
        ("awr", judged(-1e9), {}, 0.0),
        ("awr", judged(None), {}, 0.0),
        ("raft", judged(None, reward=9.0), {}, 0.0),
        ("raft", judged(-1.0, is_best=True), {}, 1.0),
        ("raft", judged(None, reward=0.5), {"threshold": 0.5}, 1.0),
        ("raft", judged(1.0, reward=0.4, is_best=True), {"threshold": 0.5}, 0.0),
        ("reinforce", judged(-1.5), {}, -1.5),
        ("topr", judged(0.25), {}, 0.25),
        ("topr", judged(None), {}, 0.0),
    ],
)
def test_weights_by_hand(loss, answer, given, expected):
    assert OFFLINE_LOSSES[loss].weight(answer, Weighting(**given)) == pytest.approx(expected)


def leaf(tokens, weight, advantage, ref=None, old=None):
    columns = {"weights": [weight] * len(tokens), "advantages": [advantage] * len(tokens)}
    columns |= {"ref_logprobs": ref} if ref is not None else {}
    columns |= {"old_logprobs": old} if old is not None else {}
    return Segment(tokens=tokens, trained=[(0, len(tokens))], columns=columns)


# an answer of two tokens and one of one, with log-probabilities -1, -2 and -0.5
def two_answers(first=2.0, second=-1.0, ref=None, old=None):
    ref, old = ref or [None, None], old or [None, None]
    leaves = [leaf([5, 6], first, first, ref[0], old[0]), leaf([7], second, second, ref[1], old[1])]
    return [Segment(tokens=[1, 2], children=leaves)]


LOGPROBS = torch.tensor([-1.0, -2.0, -0.5])


def total(batch, loss, values=LOGPROBS):
    result = loss(batch, Outputs(logprobs=values))
    return sum(float(term) / batch.units[name] for name, term in result.terms.items())


def test_a_step_by_hand_over_tokens_and_over_answers():
    over_tokens = offline_rl_batch(two_answers(), "token")
    assert over_tokens.units == {"policy": 3.0, "kl": 3.0}
    assert total(over_tokens, OfflineRLLoss(loss_type="reinforce")) == pytest.approx((2 * 3 - 0.5) / 3)
    over_answers = offline_rl_batch(two_answers(), "sequence")
    assert over_answers.units == {"policy": 2.0, "kl": 2.0}
    assert total(over_answers, OfflineRLLoss(loss_type="reinforce")) == pytest.approx((2 * 1.5 - 0.5) / 2)


def test_answers_without_weight_are_in_the_anchor_alone():
    ref = [[-1.0, -2.0], [-0.5 + math.log(2)]]
    batch = offline_rl_batch(two_answers(second=0.0, ref=ref), "token")
    assert batch.units == {"policy": 2.0, "kl": 3.0}
    k3 = 2 - math.log(2) - 1  # exp(d) - d - 1 with d = ln 2
    expected = 2 * 3 / 2 + 0.3 * k3 / 3
    assert total(batch, OfflineRLLoss(loss_type="raft", beta=0.3)) == pytest.approx(expected)
    over_answers = offline_rl_batch(two_answers(second=0.0, ref=ref), "sequence")
    assert total(over_answers, OfflineRLLoss(loss_type="raft", beta=0.3)) == pytest.approx(2 * 1.5 + 0.3 * k3 / 2)


def test_the_taper_by_hand():
    """It holds what is worse and has become unlikely: the second answer had -0.1 and has -0.5."""
    old = [[-3.0, -3.0], [-0.1]]
    values = LOGPROBS.clone().requires_grad_()
    batch = offline_rl_batch(two_answers(old=old), "token")
    result = OfflineRLLoss(loss_type="topr")(batch, Outputs(logprobs=values))
    taper = math.exp(-0.4)
    assert result.terms["policy"].item() == pytest.approx(2 * 3 - taper * 0.5)
    (grad,) = torch.autograd.grad(result.terms["policy"], values)
    torch.testing.assert_close(grad, torch.tensor([-2.0, -2.0, taper]))
    assert [float(value) for value in result.metrics["taper/mean"]] == pytest.approx([taper, 1])
    likelier = offline_rl_batch(two_answers(old=[[-3.0, -3.0], [-4.0]]), "token")
    assert total(likelier, OfflineRLLoss(loss_type="topr")) == pytest.approx((2 * 3 - 0.5) / 3)


def test_the_taper_takes_the_reference_where_the_writer_is_not_known():
    ref = [[-1.0, -1.0], [-0.1]]
    batch = offline_rl_batch(two_answers(ref=ref), "token")
    assert total(batch, OfflineRLLoss(loss_type="topr")) == pytest.approx((2 * 3 - math.exp(-0.4) * 0.5) / 3)


def test_an_answer_given_up_stops_pushing_only_where_it_is_tapered():
    gone = torch.tensor([-1.0, -2.0, -60.0])
    for name, push in (("reinforce", 1.0), ("topr", 0.0)):
        values = gone.clone().requires_grad_()
        batch = offline_rl_batch(two_answers(old=[[-1.0, -2.0], [-0.1]]), "token")
        (grad,) = torch.autograd.grad(
            OfflineRLLoss(loss_type=name)(batch, Outputs(logprobs=values)).terms["policy"], values
        )
        assert float(grad[2]) == pytest.approx(push, abs=1e-12)


def test_metrics_by_hand():
    metrics = OfflineRLLoss(loss_type="awr")(offline_rl_batch(two_answers()), Outputs(logprobs=LOGPROBS)).metrics
    means = {name: float(amount) / float(count) for name, (amount, count) in metrics.items()}
    assert means == pytest.approx({"weights/mean": 0.5, "logps/better": -3.0, "logps/worse": -0.5})


def test_a_part_without_answers_has_a_loss_of_zero():
    nothing = offline_rl_batch(two_answers(ref=[[0.0, 0.0], [0.0]])).nothing()
    loss = OfflineRLLoss(loss_type="topr", beta=1.0)(nothing, Outputs(logprobs=torch.zeros(0)))
    assert [float(term) for term in loss.terms.values()] == [0.0, 0.0]


def test_what_a_loss_needs_is_said_where_it_is_missing():
    batch = offline_rl_batch(two_answers())
    with pytest.raises(ValueError, match="beta without ref_logprobs"):
        OfflineRLLoss(beta=0.1)(batch, Outputs(logprobs=LOGPROBS))
    with pytest.raises(ValueError, match="policy that wrote"):
        OfflineRLLoss(loss_type="topr")(batch, Outputs(logprobs=LOGPROBS))


# A ragged step: five prompts with one to four answers of one to six tokens


def tokens(seed, count):
    return torch.randint(384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def noise(seed, count):
    return (torch.rand(count, generator=torch.Generator().manual_seed(seed)) - 0.5).tolist()


PROMPTS = [tokens(i, 2 + i) for i in range(5)]
ANSWERS = []  # (prompt, tokens, weight)
for number in range(5):
    for member in range(1 + (3 * number) % 4):
        key = 10 * number + member
        ANSWERS.append((number, tokens(200 + key, 1 + key % 6), [0.7, -1.3, 2.0, 0.0][key % 4]))


def others(model):
    """Log-probabilities near the model's own, as a reference and a writer would have them."""
    rows = [PROMPTS[n] + t for n, t, _ in ANSWERS]
    with torch.no_grad():
        own = padded_logprobs(model, rows, [len(PROMPTS[n]) for n, *_ in ANSWERS])
    return [
        tuple([float(p) + shift for p, shift in zip(part, noise(seed + i, len(part)))] for seed in (0, 100))
        for i, part in enumerate(own)
    ]


def ragged(aggregation, known, weight=float):
    trees = []
    for number, prompt in enumerate(PROMPTS):
        mine = [(t, w, *known[i]) for i, (n, t, w) in enumerate(ANSWERS) if n == number]
        trees.append(Segment(tokens=prompt, children=[leaf(t, weight(w), w, ref, old) for t, w, ref, old in mine]))
    return offline_rl_batch(trees, aggregation)


def slow(model, known, loss_type, aggregation, beta, weight):
    """The loss of the whole step with plain loops over padded rows."""
    rows = [PROMPTS[n] + t for n, t, _ in ANSWERS]
    parts = padded_logprobs(model, rows, [len(PROMPTS[n]) for n, *_ in ANSWERS])
    policy, anchor, weighted, everyone = torch.zeros(()), torch.zeros(()), 0, 0
    for (_, text, w), (ref, old), logprobs in zip(ANSWERS, known, parts):
        size = len(text) if aggregation == "token" else 1
        share = 1 if aggregation == "token" else 1 / len(text)
        taper = 1.0
        if loss_type == "topr" and weight(w) < 0:
            taper = min(math.exp(float(logprobs.detach().sum()) - sum(old)), 1.0)
        for t in range(len(text)):
            d = ref[t] - logprobs[t]
            policy = policy - weight(w) * taper * share * logprobs[t]
            anchor = anchor + share * (torch.exp(d) - d - 1)
        weighted += size if weight(w) else 0
        everyone += size
    return policy / weighted + beta * anchor / everyone


@pytest.mark.parametrize("max_tokens", [1, 25, 10_000])
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", OFFLINE_LOSSES)
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_loss_and_gradient_equal_a_slow_padded_reference(loss_type, aggregation, beta, max_tokens):
    model = build_model("qwen3")
    weight = abs if loss_type in ("awr", "raft") else float
    known = others(model)
    expected = slow(model, known, loss_type, aggregation, beta, weight)
    loss = OfflineRLLoss(loss_type=loss_type, beta=beta)
    check(model, ragged(aggregation, known, weight), loss, max_tokens, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout):
    model = build_model("llama")
    known = others(model)
    expected = slow(model, known, "topr", "sequence", 0.4, float)
    check(model, ragged("sequence", known), OfflineRLLoss(loss_type="topr", beta=0.4), 25, expected, layout)


def check(model, batch, loss, max_tokens, expected, layout="forest"):
    model.zero_grad()
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    learner = Learner(model, layout=layout)
    result = step(
        learner, batch, loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), runtime=Runtime(use_cpu=True),
        budget=Budget(max_tokens=max_tokens), max_grad_norm=0.0,
    )  # fmt: skip
    learner.release()
    assert result.passes == {1: len(ANSWERS), 25: result.passes, 10_000: 1}[max_tokens]
    assert result.loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("max_tokens", [1, 12, 30])
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_parts(aggregation, max_tokens):
    batch = ragged(aggregation, others(build_model("qwen3")))
    given = -3 * torch.rand(len(batch.forest.targets), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = OfflineRLLoss(loss_type="topr", beta=0.3)
    whole, parts = loss(batch, Outputs(logprobs=given)), batch.cut(max_tokens)
    assert len(parts) > 2
    chunks = given.split([len(part.forest.targets) for part in parts])
    pieces = [loss(part, Outputs(logprobs=chunk)) for part, chunk in zip(parts, chunks)]
    for term, value in whole.terms.items():
        torch.testing.assert_close(sum(piece.terms[term] for piece in pieces), value)
    for name, (amount, count) in whole.metrics.items():
        torch.testing.assert_close(float(sum(p.metrics[name][0] for p in pieces)), float(amount))
        assert sum(int(p.metrics[name][1]) for p in pieces) == int(count)
