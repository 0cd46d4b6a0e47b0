import pytest
import torch
from tiny import build_model

from posttrain.algorithms.sft import sft_batch, sft_loss
from posttrain.engine.loss_scale import GROWS_AFTER, LossScale
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.errors import TrainingError
from posttrain.models.learner import Learner
from posttrain.types import Loss, Segment

TREES = [Segment(tokens=list(range(5, 5 + n)), trained=[(2, n)]) for n in (4, 9, 6, 7)]


def take(learner, *, budget, loss=sft_loss, make_room=None, max_grad_norm=0.0, lr=0.1, runtime=None):
    optimizer = torch.optim.SGD(learner.parameters(), lr=lr)
    return step(
        learner, sft_batch(TREES), loss, optimizer=optimizer,
        runtime=runtime or Runtime(use_cpu=True), budget=budget,
        max_grad_norm=max_grad_norm, make_room=make_room,
    )  # fmt: skip


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


class OutOfMemoryAbove(Learner):
    """A learner on a machine that holds so many tokens' activations."""

    limit = 10

    def forward(self, forest, needs=("logprobs",)):
        outputs = super().forward(forest, needs)
        if len(forest.tokens) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outputs


def test_out_of_memory_halves_the_budget_and_gives_the_same_step():
    plain = Learner(build_model("llama"))
    expected = take(plain, budget=Budget(max_tokens=100))
    tight, budget = OutOfMemoryAbove(build_model("llama")), Budget(max_tokens=100)
    result = take(tight, budget=budget)
    assert budget.max_tokens == 12
    assert budget.halvings == 3
    assert result.passes == 4
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    torch.testing.assert_close(weights(tight), weights(plain), rtol=1e-5, atol=1e-6)


def test_out_of_memory_on_the_longest_row_makes_room_or_says_what_to_do():
    tight = OutOfMemoryAbove(build_model("llama"))
    tight.limit = 8
    with pytest.raises(TrainingError, match="longest row alone"):
        take(tight, budget=Budget(max_tokens=100))

    def make_room():
        tight.limit = 9
        return True

    assert take(tight, budget=Budget(max_tokens=100), make_room=make_room).finite


def test_out_of_memory_ends_the_run_where_passes_are_not_to_be_cut():
    """auto_find_batch_size=False."""
    with pytest.raises(TrainingError, match="auto_find_batch_size=true"):
        take(OutOfMemoryAbove(build_model("llama")), budget=Budget(max_tokens=100, fixed=True))


def test_float16_scales_the_loss_and_computes_a_step_that_overflows_again():
    plain = Learner(build_model("llama"))
    expected = take(plain, budget=Budget(max_tokens=100))
    half, runtime = Learner(build_model("llama")), Runtime(use_cpu=True)
    runtime.autocast_dtype, runtime.loss_scale = torch.float16, LossScale(value=2.0**24)
    result = take(half, budget=Budget(max_tokens=100), runtime=runtime)
    assert result.finite
    assert 1.0 <= runtime.loss_scale.value < 2.0**24  # so large a loss overflows in the backward
    assert result.loss == pytest.approx(expected.loss, rel=1e-2)
    assert result.loss != expected.loss
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=2e-2)


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_many_steps_without():
    scale = LossScale(value=4.0)
    assert scale.overflowed()
    assert scale.overflowed()  # 1 is tried, too
    assert not scale.overflowed()  # nothing is left to halve
    for _ in range(GROWS_AFTER):
        scale.went_well()
    assert scale.value == 2.0


def test_dropout_is_drawn_again_when_a_step_is_retried():
    """The retried step uses the random numbers of the first attempt."""
    results = []
    for limit in (1000, 25):
        torch.manual_seed(3)
        learner = OutOfMemoryAbove(build_model("gpt2", resid_pdrop=0.3).train())
        learner.limit = limit
        before = torch.get_rng_state()
        take(learner, budget=Budget(max_tokens=26))
        torch.set_rng_state(before)
        results.append(torch.rand(1))
    assert torch.equal(*results)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    learner = Learner(build_model("llama"))
    before = weights(learner)
    result = take(learner, budget=Budget(max_tokens=100), loss=lambda b, o: Loss(terms={"sft": o.logprobs.sum() * bad}))
    assert not result.finite
    assert torch.equal(weights(learner), before)


def test_the_gradient_is_clipped_to_its_norm():
    learner = Learner(build_model("llama"))
    before = weights(learner)
    result = take(learner, budget=Budget(max_tokens=100), max_grad_norm=0.5, lr=1.0)
    assert result.grad_norm > 0.5
    assert float((weights(learner) - before).norm()) == pytest.approx(0.5, rel=1e-4)
