"""A step's loss and gradient equal those of a slow padded computation, for every loss and every cut."""

import pytest
import torch
from padded_rows import padded_dpo, padded_sft
from tiny import build_model

from posttrain.algorithms.dpo import DPOLoss, dpo_batch
from posttrain.algorithms.sft import sft_batch, sft_loss
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.models.layouts import LAYOUTS
from posttrain.models.learner import Learner
from posttrain.models.reference import with_reference
from posttrain.types import Segment

CUTS = [1, 40, 10_000]


def tokens(seed, count):
    return torch.randint(384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


CONVERSATIONS = [(tokens(i, 3 + i % 4), tokens(100 + i, 1 + (3 * i) % 7)) for i in range(9)]
PAIRS = [(tokens(i, 2 + i), tokens(50 + i, 1 + (2 * i) % 5), tokens(90 + i, 1 + i % 6)) for i in range(6)]


def run(model, batch, loss, max_tokens, layout="forest", needs=()):
    """Loss, gradient norm and gradients of one step whose update changes nothing."""
    learner = Learner(model, layout=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    result = step(
        learner, batch, loss, optimizer=optimizer, runtime=Runtime(use_cpu=True), budget=Budget(max_tokens=max_tokens),
        max_grad_norm=0.0, needs=("logprobs", *needs),
    )  # fmt: skip
    learner.release()
    return result, {name: p.grad for name, p in model.named_parameters()}


def compare(result, gradients, model, expected):
    model.zero_grad()
    expected.backward()
    assert result.loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    total = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters()))
    assert result.grad_norm == pytest.approx(float(total), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("max_tokens", CUTS)
def test_sft(max_tokens, layout):
    model = build_model("qwen3")
    trees = [Segment(tokens=p + c, trained=[(len(p), len(p) + len(c))]) for p, c in CONVERSATIONS]
    result, gradients = run(model, sft_batch(trees), sft_loss, max_tokens, layout)
    assert result.passes == {1: 9, 40: 2, 10_000: 1}[max_tokens]
    expected = padded_sft(model, [p + c for p, c in CONVERSATIONS], [len(p) for p, _ in CONVERSATIONS])
    compare(result, {k: v.clone() for k, v in gradients.items()}, model, expected)


@pytest.mark.parametrize("max_tokens", CUTS)
@pytest.mark.parametrize(
    ("name", "beta", "smoothing"),
    [("sigmoid", 0.2, 0.0), ("hinge", 0.3, 0.0), ("robust", 0.2, 0.1), ("ipo", 0.5, 0.0), ("sft", 0.1, 0.0),
     ("sigmoid_norm", 2.0, 0.0), ("exo_pair", 0.2, 0.1), ("nca_pair", 0.2, 0.0), ("bco_pair", 0.2, 0.0),
     ("sppo_hard", 0.5, 0.0), ("apo_zero", 0.2, 0.0), ("apo_down", 0.2, 0.0), ("discopop", 0.1, 0.0)],
)  # fmt: skip
def test_dpo(tmp_path, name, beta, smoothing, max_tokens):
    reference, model = build_model("llama", seed=1), build_model("llama", seed=0)
    trees, reference = referred(reference, tmp_path)
    loss = DPOLoss(beta=beta, loss_weights=((name, 1.0),), label_smoothing=smoothing)
    result, gradients = run(model, dpo_batch(trees), loss, max_tokens)
    expected = padded_dpo(model, reference, PAIRS, name, beta, smoothing)
    compare(result, {k: v.clone() for k, v in gradients.items()}, model, expected)


@pytest.mark.parametrize(
    ("name", "beta", "smoothing"), [("cpo", 0.2, 0.1), ("simpo", 2.0, 0.0), ("orpo", 0.1, 0.0), ("hinge", 0.2, 0.0)]
)
def test_without_a_reference(name, beta, smoothing):
    model = build_model("llama")
    loss = DPOLoss(beta=beta, loss_weights=((name, 1.0),), label_smoothing=smoothing)
    result, gradients = run(model, dpo_batch(pair_trees()), loss, 40)
    expected = padded_dpo(model, None, PAIRS, name, beta, smoothing)
    compare(result, {k: v.clone() for k, v in gradients.items()}, model, expected)


@pytest.mark.parametrize(
    ("settings", "slow"),
    [
        ({"f_divergence_type": "forward_kl"}, {"score": lambda h: 1 - (-h).exp()}),
        ({"f_divergence_type": "js_divergence"}, {"score": lambda h: (2 * h.exp() / (1 + h.exp())).log()}),
        ({"f_divergence_type": "alpha_divergence"}, {"score": lambda h: 2 - 2 * (-h / 2).exp()}),
        ({"ld_alpha": 0.4}, {"ld_alpha": 0.4}),
        ({"use_weighting": True}, {"wpo": True}),
    ],
)
def test_what_dpo_may_add(tmp_path, settings, slow):
    reference, model = build_model("llama", seed=1), build_model("llama", seed=0)
    trees, reference = referred(reference, tmp_path)
    loss = DPOLoss(beta=0.2, **settings)
    result, gradients = run(model, dpo_batch(trees), loss, 40, needs=loss.needs)
    expected = padded_dpo(model, reference, PAIRS, "sigmoid", 0.2, 0.0, **slow)
    compare(result, {k: v.clone() for k, v in gradients.items()}, model, expected)


def pair_trees():
    return [
        Segment(tokens=p, children=[Segment(tokens=c, trained=[(0, len(c))]), Segment(tokens=r, trained=[(0, len(r))])])
        for p, c, r in PAIRS
    ]


def referred(reference, directory):
    """The pairs with the reference's log-probabilities, and the reference as it came."""
    frozen = Learner(reference)
    trees, _ = with_reference(
        pair_trees(), frozen, directory=directory, max_tokens=30, autocast=Runtime(use_cpu=True).autocast,
        precision="float32",
    )  # fmt: skip
    return trees, frozen.release()


def test_only_trained_tokens_have_a_gradient():
    """What an untrained token is predicted to be does not matter: replacing it as a target changes no gradient."""
    prompt, answer = [5, 6, 7], [8, 9]
    gradients = []
    for trained in ([(3, 5)], [(2, 5)]):
        model = build_model("llama")
        batch = sft_batch([Segment(tokens=prompt + answer, trained=trained)])
        batch.units["sft"] = 1.0
        gradients.append(run(model, batch, sft_loss, 100)[1]["lm_head.weight"])
    last_of_prompt_trained = gradients[1] - gradients[0]
    model = build_model("llama")
    state = model.model(input_ids=torch.tensor([prompt + answer])).last_hidden_state[0, 1]
    expected = (model.lm_head(state).softmax(-1) - torch.eye(384)[7])[:, None] * state[None]
    torch.testing.assert_close(last_of_prompt_trained, expected, rtol=1e-3, atol=1e-5)
