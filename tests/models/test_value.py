"""A policy with a value model: where values are read, what learns from them, and what a checkpoint keeps."""

import pytest
import torch
from tiny import ARCHITECTURES, build_model

from posttrain.errors import CheckpointError
from posttrain.models.learner import Learner
from posttrain.models.lora import apply_lora
from posttrain.models.score_loading import score_model_of
from posttrain.models.value import ActorCritic, tree_values
from posttrain.types import Segment, TokenForest

TREES = [
    Segment(
        tokens=[5, 6, 7], children=[Segment(tokens=t, trained=[(0, len(t))]) for t in ([8, 9], [10], [11, 12, 13])]
    ),
    Segment(tokens=[20], children=[Segment(tokens=[21, 22], trained=[(0, 2)])]),
]
FOREST = TokenForest.from_trees(TREES)
NEEDS = ("logprobs", "values", "end_values")


def give_weights(learner, seed=1):
    with torch.no_grad():
        head = learner.value_head or learner.value_model.score
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
    return learner


def by_rows(model, head):
    """Values at each trained token and after each end, from the model's own states of single rows."""
    before, after = [], []
    for tree in TREES:
        for leaf in tree.children:
            states = model.get_decoder()(input_ids=torch.tensor([[*tree.tokens, *leaf.tokens]])).last_hidden_state[0]
            values = torch.nn.functional.linear(states, head.weight, head.bias).detach()[len(tree.tokens) - 1 :, 0]
            before += values[:-1].tolist()
            after.append(float(values[-1]))
    return before, after


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_values_are_those_of_the_states_before_each_token_and_after_the_last(arch):
    model = build_model(arch)
    learner = give_weights(ActorCritic(Learner(model)))
    outputs = learner(FOREST, NEEDS)
    learner.release()
    before, after = by_rows(model, learner.value_head)
    assert outputs.values.tolist() == pytest.approx(before, abs=1e-4)
    assert outputs.end_values.tolist() == pytest.approx(after, abs=1e-4)
    assert outputs.logprobs.tolist() == pytest.approx(Learner(model)(FOREST).logprobs.tolist(), abs=1e-6)


def test_a_body_of_its_own_is_read_in_its_place():
    value_model = score_model_of(build_model("llama", seed=4))
    learner = give_weights(ActorCritic(Learner(build_model("qwen2")), value_model))
    outputs = learner(FOREST, NEEDS)
    learner.release()
    before, after = by_rows(value_model, value_model.score)
    assert outputs.values.tolist() == pytest.approx(before, abs=1e-4)
    assert outputs.end_values.tolist() == pytest.approx(after, abs=1e-4)


def test_a_fresh_value_model_starts_near_zero():
    """Pitfall 30."""
    shared = ActorCritic(Learner(build_model("qwen2")))
    assert not shared(FOREST, NEEDS).values.any()
    own = ActorCritic(Learner(build_model("qwen2")), score_model_of(build_model("qwen2", seed=2)))
    assert 0 < own(FOREST, NEEDS).values.abs().max() < 0.1


def test_a_reward_model_begins_with_its_own_head():
    reward_model = score_model_of(build_model("qwen2", seed=2))
    with torch.no_grad():
        reward_model.score.weight.fill_(0.5)
    learner = ActorCritic(Learner(build_model("qwen2")), score_model_of(reward_model))
    assert learner.value_model is reward_model
    assert learner(FOREST, NEEDS).values.abs().max() > 0.1


@pytest.mark.parametrize(
    ("detached", "warming_up", "moves"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_whose_states_the_value_loss_changes(detached, warming_up, moves):
    model = build_model("qwen2")
    learner = give_weights(ActorCritic(Learner(model), detached=detached))
    learner.warming_up = warming_up
    learner(FOREST, NEEDS).values.square().sum().backward()
    assert learner.value_head.weight.grad.abs().sum() > 0
    assert any(p.grad is not None and p.grad.any() for p in model.parameters()) is moves


def test_a_head_of_another_kind_than_a_matrix_gives_the_same_values():
    """Where the policy's own head is used, its states come from a pass of their own."""
    model = build_model("qwen2")
    plain = give_weights(ActorCritic(Learner(model)))(FOREST, NEEDS)
    learner = give_weights(ActorCritic(Learner(model)))
    learner.policy.fused_head = False
    again = learner(FOREST, NEEDS)
    torch.testing.assert_close(again.values, plain.values)
    torch.testing.assert_close(again.logprobs, plain.logprobs)


@pytest.mark.parametrize("max_tokens", [1, 8, 1000])
def test_values_of_a_rollout_do_not_depend_on_the_cut(max_tokens):
    learner = give_weights(ActorCritic(Learner(build_model("qwen2"))))
    outputs = learner(FOREST, NEEDS)
    rows, after = tree_values(TREES, learner, max_tokens, torch.no_grad, ends=True)
    assert [len(row) for row in rows] == [2, 1, 3, 2]
    assert [value for row in rows for value in row] == pytest.approx(outputs.values.tolist(), abs=1e-5)
    assert after == pytest.approx(outputs.end_values.tolist(), abs=1e-5)
    assert tree_values(TREES, learner, max_tokens, torch.no_grad)[1] == []


def make(kind):
    policy = build_model("qwen2")
    if kind == "shared":
        return ActorCritic(Learner(policy))
    value_model = score_model_of(build_model("llama", seed=4))
    if kind == "lora":
        torch.manual_seed(0)
        from peft import TaskType

        value_model = apply_lora(value_model, {"r": 2, "lora_alpha": 4}, task_type=TaskType.SEQ_CLS)
    return ActorCritic(Learner(policy), value_model)


@pytest.mark.parametrize("kind", ["shared", "own", "lora"])
def test_what_is_trained_of_the_value_model_is_kept_and_comes_back(tmp_path, kind):
    learner = make(kind)
    with torch.no_grad():
        for number, parameter in enumerate(learner.value_parameters()):
            parameter.add_(0.01 * (number + 1))
    wanted = learner(FOREST, NEEDS).values
    learner.save_value(tmp_path)
    again = make(kind)
    assert not torch.equal(again(FOREST, NEEDS).values, wanted)
    again.load_value(tmp_path)
    assert torch.equal(again(FOREST, NEEDS).values, wanted)
    if kind == "lora":
        assert sum(p.numel() for p in learner.value_parameters()) < 0.2 * sum(
            p.numel() for p in learner.value_model.parameters()
        )


def test_another_value_model_or_none_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="holds no value model"):
        make("shared").load_value(tmp_path)
    make("shared").save_value(tmp_path)
    with pytest.raises(CheckpointError, match="another value model"):
        make("own").load_value(tmp_path)
