"""Temperature and entropy through the learner: the fused head and the model's own against plain autograd."""

import pytest
import torch

from posttrain.models.layouts import LAYOUTS
from posttrain.models.learner import Learner
from posttrain.types import Segment, TokenForest

PROMPT, ANSWERS = [5, 6, 7], ([8, 9], [10, 11, 12], [13])
FOREST = TokenForest.from_trees(
    [Segment(tokens=PROMPT, children=[Segment(tokens=a, trained=[(0, len(a))]) for a in ANSWERS])]
)


def plain(model, temperature):
    """Log-probabilities and entropies of the answers, one row at a time from the model's final logits."""
    logprobs, entropies = [], []
    for answer in ANSWERS:
        logits = model(input_ids=torch.tensor([PROMPT + answer])).logits[0, len(PROMPT) - 1 : -1]
        table = (logits.float() / temperature).log_softmax(dim=-1)
        logprobs.append(table[range(len(answer)), answer])
        entropies.append(-(table.exp() * table).sum(dim=-1))
    return torch.cat(logprobs), torch.cat(entropies)


def gradients(model, logprobs, entropies):
    weights = torch.linspace(-1.0, 1.0, len(logprobs))
    model.zero_grad()
    (logprobs @ weights + entropies @ weights.flip(0)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cap", [None, 2.0], ids=["fused head", "own head"])
def test_temperature_and_the_entropy_gradient(tiny_model, cap, layout):
    """With soft-capping the temperature divides what comes after the cap."""
    model = tiny_model("gemma3_text", final_logit_softcapping=cap)
    expected = plain(model, 0.7)
    wanted = gradients(model, *expected)
    learner = Learner(model, layout=layout)
    learner.temperature = 0.7
    assert learner.fused_head == (cap is None)
    outputs = learner(FOREST, needs=("logprobs", "entropy_grad"))
    torch.testing.assert_close(outputs.logprobs, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.entropy, expected[1], rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(model, outputs.logprobs, outputs.entropy).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("cap", [None, 2.0], ids=["fused head", "own head"])
def test_an_entropy_that_is_only_looked_at_has_no_gradient(tiny_model, cap):
    outputs = Learner(tiny_model("gemma3_text", final_logit_softcapping=cap))(FOREST, needs=("logprobs", "entropy"))
    assert outputs.logprobs.requires_grad
    assert not outputs.entropy.requires_grad
