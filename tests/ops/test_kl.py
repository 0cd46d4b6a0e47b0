"""Estimators of the KL against the exact one of a small categorical, in value and in gradient (pitfall 23)."""

import pytest
import torch

from posttrain.ops.kl import kl_estimate

POLICY = torch.tensor([0.1, -0.4, 0.7, -1.2, 0.3], dtype=torch.float64)  # logits
REFERENCE = torch.tensor([0.4, -0.1, -0.3, -0.8, 0.2], dtype=torch.float64)


def expectation(kind, logits, weight=None):
    """The estimate's mean over what the policy draws, draws and their probabilities held fixed."""
    p = POLICY.log_softmax(0).exp()
    terms = kl_estimate(logits.log_softmax(0), REFERENCE.log_softmax(0), kind)
    return (p * terms * (1 if weight is None else weight)).sum()


def exact(logits, other):
    return (logits.log_softmax(0).exp() * (logits.log_softmax(0) - other.log_softmax(0))).sum()


def gradient(function):
    logits = POLICY.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_have_the_exact_kl_as_their_mean(kind):
    torch.testing.assert_close(expectation(kind, POLICY), exact(POLICY, REFERENCE))


def test_k2_is_biased_but_close_where_the_policies_are():
    assert expectation("k2", POLICY) != pytest.approx(float(exact(POLICY, REFERENCE)), rel=1e-2)
    near = POLICY + 0.01 * REFERENCE
    mean = (near.softmax(0) * kl_estimate(near.log_softmax(0), POLICY.log_softmax(0), "k2")).sum()
    assert float(mean) == pytest.approx(float(exact(near, POLICY)), rel=1e-2)


def test_k1_in_the_loss_has_no_expected_gradient():
    torch.testing.assert_close(gradient(lambda x: expectation("k1", x)), torch.zeros(5, dtype=torch.float64))


def test_k2_in_the_loss_has_the_gradient_of_the_kl():
    torch.testing.assert_close(gradient(lambda x: expectation("k2", x)), gradient(lambda x: exact(x, REFERENCE)))


def test_k3_in_the_loss_has_the_gradient_of_the_kl_the_other_way_round():
    got = gradient(lambda x: expectation("k3", x))
    torch.testing.assert_close(got, gradient(lambda x: exact(REFERENCE, x)))
    assert (got - gradient(lambda x: exact(x, REFERENCE))).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_with_the_importance_ratio_the_unbiased_estimators_have_the_gradient_of_the_kl(kind):
    def corrected(logits):
        return expectation(kind, logits, (logits.log_softmax(0) - POLICY.log_softmax(0)).exp())

    torch.testing.assert_close(gradient(corrected), gradient(lambda x: exact(x, REFERENCE)))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("shift", [100.0, -100.0])
def test_gradients_are_finite_far_from_the_reference(kind, shift):
    """Pitfall 24: exp(100) is infinite in float32. A policy far above the reference is still pulled back."""
    logprobs = torch.tensor([-101.0]).requires_grad_()
    value = kl_estimate(logprobs, logprobs.detach() + shift, kind)
    (slope,) = torch.autograd.grad(value.sum(), logprobs)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    if shift < 0:
        assert slope > 0


def test_the_estimates_worked_by_hand():
    logprobs, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert kl_estimate(logprobs, ref, "k1").tolist() == [0.5, -1.0]
    assert kl_estimate(logprobs, ref, "k2").tolist() == [0.125, 0.5]
    assert kl_estimate(logprobs, ref, "k3").tolist() == pytest.approx([0.10653066, 0.71828183])  # e^-0.5-0.5, e-2
    assert kl_estimate(logprobs, logprobs, "k3").tolist() == [0.0, 0.0]
