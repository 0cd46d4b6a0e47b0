"""Rollouts become batches: groups, statistics, what is left out and what is counted all the same, and resumption."""

import json

import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain.data.prompts import prompt_set
from posttrain.errors import CheckpointError
from posttrain.rewards.combination import RewardSet
from posttrain.sampling.local import LocalSampler
from posttrain.sources.group_relative import GroupRelative
from posttrain.sources.online import OnlinePlan, OnlineSource
from posttrain.sources.samples import SamplesFile
from posttrain.types import SamplingParams, Unjudged

ROWS = [{"prompt": text, "wanted": text[0]} for text in ("Two and", "I am", "Tell me", "What is", "Seven apples")]
PLAN = {
    "params": SamplingParams(max_tokens=6), "num_generations": 4, "groups": 3, "steps": 1, "num_iterations": 1,
    "reference_needed": False, "kl_tracked": False, "resamples": 0, "random_rewards": False,
    "strategy": "random", "seed": 3, "order_seed": 3,
}  # fmt: skip
GROUP_RELATIVE = {
    "loss_type": "dapo", "importance": "token", "scale": "group", "baseline": "mean", "mask_truncated": False,
    "every_group": False,
}  # fmt: skip


def by_length(completion_ids, **columns):
    return [float(sum(ids) % 3) for ids in completion_ids]


def always(value):
    def same(completions, **columns):
        return [value] * len(completions)

    return same


def some_unjudged(completion_ids, **columns):
    return [Unjudged("timed out") if number % 4 == 1 else float(number % 4) for number in range(len(completion_ids))]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def sampler(tokenizer):
    return LocalSampler(build_model("qwen2"), tokenizer)


def source(sampler, tokenizer, reward=by_length, samples=None, rows=ROWS, **options):
    how = {name: options.pop(name, value) for name, value in GROUP_RELATIVE.items()}
    prompts, plan = prompt_set(rows, tokenizer), OnlinePlan(**{**PLAN, **options})
    return OnlineSource(
        prompts, plan, GroupRelative(prompts, plan, **how), sampler=sampler, rewards=RewardSet(reward), reference=None,
        samples=samples,
    )  # fmt: skip


def leaves(batch):
    """The advantage of each completion in a batch."""
    return [float(batch.advantages[i]) for i in batch.forest.trained_before[:-1]]


def test_a_step_is_whole_groups_that_share_their_prompt(sampler, tokenizer):
    made = source(sampler, tokenizer)
    batch = made.next()
    groups = [group for group in made.latest if group.has_signal()]
    assert len(batch.forest.leaves) == 4 * len(groups)
    assert batch.forest.parents.count(-1) == len(groups)
    for group, prompt in zip(groups, [i for i, parent in enumerate(batch.forest.parents) if parent == -1]):
        start = batch.forest.offsets[prompt]
        tokens = batch.forest.tokens[start : start + batch.forest.lengths[prompt]].tolist()
        assert tokens == tokenizer(ROWS[group.prompt]["prompt"]).input_ids


def test_the_sampled_tokens_themselves_are_trained(sampler, tokenizer):
    made = source(sampler, tokenizer)
    batch = made.next()
    trained = [member.completion.tokens for group in made.latest if group.has_signal() for member in group.members]
    assert batch.forest.targets.tolist() == [token for tokens in trained for token in tokens]
    assert batch.old_logprobs is None  # the policy is the one that sampled
    again = source(sampler, tokenizer, num_iterations=2).next()
    logprobs = [member.completion.logprobs for group in made.latest if group.has_signal() for member in group.members]
    assert again.old_logprobs.tolist() == pytest.approx([value for values in logprobs for value in values])


def test_a_group_without_signal_costs_nothing_and_its_tokens_count(sampler, tokenizer):
    made = source(sampler, tokenizer, always(1.0))
    batch = made.next()
    lengths = [len(member.completion.tokens) for group in made.latest for member in group.members]
    assert batch.forest.leaves == ()
    assert batch.units["policy"] == sum(lengths)
    assert made.metrics()["frac_reward_zero_std"] == (3.0, 3.0)
    kept = source(sampler, tokenizer, always(1.0), every_group=True).next()
    assert len(kept.forest.leaves) == 12
    assert not kept.advantages.any()


@pytest.mark.parametrize(
    ("loss_type", "unit"),
    [("grpo", lambda n: 12), ("bnpo", sum), ("dapo", sum), ("dr_grpo", lambda n: 12 * 6), ("cispo", sum)],
)
def test_units_of_each_aggregation(sampler, tokenizer, loss_type, unit):
    made = source(sampler, tokenizer, loss_type=loss_type)
    batch = made.next()
    lengths = [len(member.completion.tokens) for group in made.latest for member in group.members]
    assert batch.units["policy"] == unit(lengths)
    if loss_type == "grpo":
        sums = torch.zeros(len(batch.forest.leaves)).index_add(0, batch.forest.sequence, batch.weights)
        assert sums.tolist() == pytest.approx([1.0] * len(sums))


def test_the_steps_of_a_rollout_share_it_out_and_are_passed_over_again(sampler, tokenizer):
    whole = source(sampler, tokenizer, every_group=True).next()
    made = source(sampler, tokenizer, every_group=True, steps=2, num_iterations=2)
    steps = [made.next() for _ in range(4)]
    assert [len(step.forest.leaves) for step in steps] == [6] * 4
    assert torch.equal(torch.cat([step.forest.targets for step in steps[:2]]), whole.forest.targets)
    assert torch.equal(steps[0].forest.targets, steps[2].forest.targets)
    assert leaves(steps[0]) + leaves(steps[1]) == pytest.approx(leaves(whole))
    assert steps[0].units["policy"] == whole.units["policy"] / 2
    made.next()
    assert made.latest[0].number == 3  # a new rollout


def test_an_unjudged_completion_is_in_no_statistic_and_not_trained(sampler, tokenizer):
    """Pitfall 28: a verifier that timed out has not seen a wrong answer."""
    made = source(sampler, tokenizer, some_unjudged, scale="none")
    batch = made.next()
    assert leaves(batch) == pytest.approx([0 - 5 / 3, 2 - 5 / 3, 3 - 5 / 3] * 3)
    assert source(sampler, tokenizer, some_unjudged, loss_type="grpo").next().units["policy"] == 9
    assert made.metrics()["rewards/unjudged"] == (3.0, 12.0)
    assert made.metrics()["rewards/some_unjudged/unjudged"] == (3.0, 12.0)
    assert made.metrics()["reward"] == (15.0, 9.0)


def test_a_masked_truncated_completion_is_in_the_statistics_and_not_trained(sampler, tokenizer):
    """Pitfall 29."""
    made = source(sampler, tokenizer, mask_truncated=True, every_group=True)
    batch = made.next()
    members = [member for group in made.latest for member in group.members]
    ended = [member for member in members if member.completion.finish_reason != "length"]
    assert len(batch.forest.leaves) == len(ended) < len(members)
    assert all(member.advantage is not None for member in members)


def test_the_control_arm_trains_on_coins_and_shows_the_real_rewards(sampler, tokenizer):
    made = source(sampler, tokenizer, always(0.25), random_rewards=True)
    made.next()
    rewards = [member.reward for group in made.latest for member in group.members]
    assert set(rewards) == {0.0, 1.0}
    assert made.metrics()["rewards/same/mean"] == (3.0, 12.0)
    again = source(sampler, tokenizer, always(0.25), random_rewards=True)
    again.next()
    assert [member.reward for group in again.latest for member in group.members] == rewards


def test_dynamic_sampling_draws_fresh_prompts_for_groups_without_signal(sampler, tokenizer, tmp_path):
    def second_prompt_teaches(prompts, **columns):
        return [float(i % 2) if prompt == "I am" else 0.0 for i, prompt in enumerate(prompts)]

    file = SamplesFile(tmp_path)
    made = source(sampler, tokenizer, second_prompt_teaches, samples=file, groups=2, resamples=9, strategy="sequential")
    made.next()
    assert [ROWS[group.prompt]["prompt"] for group in made.latest] == ["I am", "I am"]
    records = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert len(records) % 4 == 0
    assert len(records) > 8
    assert {record["advantage"] is None for record in records if record["prompt"] != "I am"} == {True}
    capped = source(sampler, tokenizer, always(1.0), groups=2, resamples=1)
    assert len(capped.next().forest.leaves) == 0
    assert len(capped.latest) == 2


def test_every_prompt_has_its_turn_before_one_comes_again(sampler, tokenizer):
    made = source(sampler, tokenizer, groups=5)
    orders = []
    for _ in range(2):
        made.next()
        orders.append([group.prompt for group in made.latest])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(5))
    assert orders[0] != orders[1]
    assert made.epoch == 2.0


def test_a_resumed_source_goes_on_within_the_rollout_to_the_bit(sampler, tokenizer, tmp_path):
    """Pitfall 32: the rollout buffer belongs to the state."""
    options = {"steps": 3, "num_iterations": 2}
    whole = source(sampler, tokenizer, **options)
    wanted = [whole.next() for _ in range(9)]
    first = source(sampler, tokenizer, **options)
    for _ in range(4):
        first.next()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = source(sampler, tokenizer, **options)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in wanted[4:]:
        now = second.next()
        assert torch.equal(now.forest.targets, batch.forest.targets)
        assert torch.equal(now.advantages, batch.advantages)
        assert (now.old_logprobs is None and batch.old_logprobs is None) or torch.equal(
            now.old_logprobs, batch.old_logprobs
        )


def test_a_source_is_not_resumed_on_other_prompts_or_rewards(sampler, tokenizer):
    state = source(sampler, tokenizer).state_dict()
    with pytest.raises(CheckpointError, match="another prompts"):
        source(sampler, tokenizer, rows=ROWS[1:]).load_state_dict(state)
    with pytest.raises(CheckpointError, match="another set of rewards"):
        source(sampler, tokenizer, always(1.0)).load_state_dict(state)


def test_samples_are_written_as_they_are_graded_and_cut_where_a_run_resumes(sampler, tokenizer, tmp_path):
    file = SamplesFile(tmp_path)
    made = source(sampler, tokenizer, samples=file)
    made.next()
    state = made.state_dict()
    first = file.path.read_text()
    record = json.loads(first.splitlines()[0])
    assert set(record) == {
        "step", "group", "row", "prompt", "completion", "prompt_ids", "completion_ids", "logprobs", "rewards", "reward",
        "advantage", "finish_reason",
    }  # fmt: skip
    assert len(first.splitlines()) == 12
    assert record["step"] == 1
    made.next()
    file.path.write_text(file.path.read_text() + '{"step": 3, "prom')
    source(sampler, tokenizer, samples=file).load_state_dict(state)
    assert file.path.read_text() == first
