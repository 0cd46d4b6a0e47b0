"""Rollouts become PPO's batches: where scores land, what is left out, the controller, early stops, and resumption."""

import json

import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain.data.prompts import prompt_set
from posttrain.rewards.combination import RewardSet
from posttrain.sampling.local import LocalSampler
from posttrain.sources.online import OnlinePlan, OnlineSource
from posttrain.sources.per_token import PerToken, PerTokenPlan
from posttrain.sources.samples import SamplesFile
from posttrain.types import SamplingParams, Unjudged

ROWS = [{"prompt": text} for text in ("Two and", "I am", "Tell me", "What is", "Seven apples")]
PLAN = {
    "params": SamplingParams(max_tokens=6), "num_generations": 2, "groups": 4, "steps": 2, "num_iterations": 2,
    "reference_needed": True, "kl_tracked": False, "resamples": 0, "random_rewards": False, "strategy": "random",
    "seed": 3, "order_seed": 3,
}  # fmt: skip


def by_sum(completion_ids, **columns):
    return [float(sum(ids) % 3) for ids in completion_ids]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def sampler(tokenizer):
    return LocalSampler(build_model("qwen2"), tokenizer)


def some_values(trees):
    """A value for each token that tells which it is, and one after each end."""
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    return [[0.01 * token for token in leaf.tokens] for leaf in leaves], [float(len(leaf.tokens)) for leaf in leaves]


def half_as_likely(trees):
    return [[-2.0 - 0.1 * i for leaf in tree.leaves() for i in range(len(leaf.tokens))] for tree in trees]


def source(sampler, tokenizer, reward=by_sum, samples=None, warm_up=lambda warming_up: None, plan=None, **how):
    prompts, made = prompt_set(ROWS, tokenizer), OnlinePlan(**{**PLAN, **(plan or {})})
    algorithm = PerToken(prompts, made, PerTokenPlan(**how), values=some_values, warm_up=warm_up)
    return OnlineSource(
        prompts, made, algorithm, sampler=sampler, rewards=RewardSet(reward), reference=half_as_likely, samples=samples
    )


def members(made):
    return [member for group in made.latest for member in group.members]


def test_the_score_is_at_the_last_token_and_the_kl_at_every_one(sampler, tokenizer):
    """Pitfalls 25 and 30. With lam 0 an advantage is its own token's reward and the difference of two values."""
    made = source(sampler, tokenizer, lam=0.0, kl_coef=0.5)
    made.next()
    for member in members(made):
        count = len(member.completion.tokens)
        values = [*(0.01 * token for token in member.completion.tokens), 0.0]
        reference = member.columns["ref_logprobs"]
        rewards = [-0.5 * (member.completion.logprobs[t] - reference[t]) for t in range(count)]
        rewards[-1] += member.reward
        returns = [rewards[t] + values[t + 1] for t in range(count)]
        assert member.columns["returns"] == pytest.approx(returns, abs=1e-6)
    flat = torch.tensor([a for member in members(made) for a in member.columns["advantages"]])
    assert float(flat.mean()) == pytest.approx(0, abs=1e-5)
    assert float(flat.var()) == pytest.approx(1, abs=1e-4)


def test_the_kl_is_in_the_rewards_alone(sampler, tokenizer):
    """Pitfall 25: a batch has no ref_logprobs from which a loss could take it again."""
    assert source(sampler, tokenizer).next().ref_logprobs is None


def test_truncation_is_what_the_option_says(sampler, tokenizer):
    """Pitfall 29: of completions with the same reward, those that were cut off."""
    options = {"kl_coef": 0.0, "lam": 1.0, "plan": {"reference_needed": False}}

    def returns(**how):
        made = source(sampler, tokenizer, lambda completions, **c: [1.0] * len(completions), **{**options, **how})
        made.next()
        cut = [member for member in members(made) if member.truncated]
        ended = [member for member in members(made) if not member.truncated]
        assert cut
        assert all({round(r, 9) for r in member.columns["returns"]} == {1.0} for member in ended)
        return {round(r, 9) for member in cut for r in member.columns.get("returns", ())}

    assert returns() == {1.0}
    assert returns(missing_eos_penalty=3.0) == {-2.0}
    assert returns(bootstrap_truncated=True) == {1.0 + 6}
    assert returns(mask_truncated=True) == set()


def test_what_is_not_known_is_not_trained_and_not_counted(sampler, tokenizer):
    """Pitfall 28."""

    def judge(completions, **columns):
        return [Unjudged("timed out") if i % 2 else 1.0 for i in range(len(completions))]

    made = source(sampler, tokenizer, judge)
    batch = made.next()
    known = [member for member in members(made)[:4] if member.reward is not None]
    assert len(batch.forest.leaves) == len(known) == 2
    assert batch.units["policy"] == batch.units["value"] == sum(len(m.completion.tokens) for m in known)
    nobody = source(sampler, tokenizer, lambda completions, **c: [Unjudged("dead")] * len(completions)).next()
    assert nobody.forest.leaves == ()
    assert nobody.units["policy"] == 0


def test_minibatches_share_out_the_rollout_and_are_passed_over_again(sampler, tokenizer):
    made = source(sampler, tokenizer)
    steps = [made.next() for _ in range(4)]
    tokens = [token for member in members(made) for token in member.completion.tokens]
    assert torch.cat([step.forest.targets for step in steps[:2]]).tolist() == tokens
    assert all(torch.equal(a.returns, b.returns) for a, b in zip(steps[:2], steps[2:]))
    made.next()
    assert made.latest[0].number == 4


def test_an_early_stop_leaves_the_rollout_and_no_more(sampler, tokenizer):
    made = source(sampler, tokenizer, early_stop_kl=0.1)
    made.next()
    made.observe({"policy/approxkl_avg": 0.05})
    made.next()
    assert made.latest[0].number == 0
    made.observe({"policy/approxkl_avg": 0.2})
    made.next()
    assert made.latest[0].number == 4
    made.observe({})  # a step without the metric, as in a warm-up
    made.next()
    assert made.latest[0].number == 4


def test_the_coefficient_follows_the_kl_and_says_where_it_is(sampler, tokenizer):
    made = source(sampler, tokenizer, kl_coef=0.1, kl_target=1000.0, kl_horizon=80)
    coefs = []
    for _ in range(8):
        made.next()
        if "objective/kl_coef" in made.metrics():
            coefs.append(made.metrics()["objective/kl_coef"][0])
    assert coefs == pytest.approx([0.1, 0.1 * (1 - 0.2 * 8 / 80)])  # far under the target, in 8 completions of 80


def test_in_the_warm_up_the_policy_has_no_weight(sampler, tokenizer):
    told = []
    made = source(sampler, tokenizer, value_warmup_steps=2, warm_up=told.append)
    weights = [float(made.next().weights.sum()) > 0 for _ in range(3)]
    assert weights == [False, False, True]
    assert told == [True, True, False]


def test_metrics_by_trl_names(sampler, tokenizer):
    made = source(sampler, tokenizer, kl_coef=0.5)
    made.next()
    metrics = {name: total / count for name, (total, count) in made.metrics().items() if count}
    rows = members(made)
    kl = [sum(p - r for p, r in zip(member.completion.logprobs, member.columns["ref_logprobs"])) for member in rows]
    assert metrics["objective/kl"] == pytest.approx(sum(kl) / 8)
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.5 * sum(kl) / 8)
    assert metrics["objective/scores"] == pytest.approx(sum(member.reward for member in rows) / 8)
    assert metrics["objective/rlhf_reward"] == pytest.approx(
        metrics["objective/scores"] + metrics["objective/non_score_reward"]
    )
    assert metrics["kl"] == pytest.approx(sum(kl) / sum(len(member.completion.tokens) for member in rows))
    assert metrics["val/num_eos_tokens"] == sum(not member.truncated for member in rows)
    targets = torch.tensor([r for member in rows for r in member.columns["returns"]])
    values = torch.tensor([v for member in rows for v in member.columns["values"]])
    explained = 1 - ((targets - values) ** 2).mean() / targets.var(unbiased=False)
    assert metrics["val/explained_variance"] == pytest.approx(float(explained), abs=1e-4)


def test_a_rollout_without_signal_is_one_whose_rewards_are_all_equal(sampler, tokenizer):
    """Groups are not compared here, so that equal rewards within one are no sign of anything."""
    share = {}
    for name, reward in (("some", by_sum), ("none", lambda completions, **c: [1.0] * len(completions))):
        made = source(sampler, tokenizer, reward, plan={"num_generations": 1, "groups": 8})
        made.next()
        share[name] = made.metrics()["frac_reward_zero_std"]
    assert share == {"some": (0.0, 1.0), "none": (1.0, 1.0)}


def test_samples_keep_values_and_advantages_of_each_token(sampler, tokenizer, tmp_path):
    file = SamplesFile(tmp_path)
    made = source(sampler, tokenizer, samples=file)
    made.next()
    for record, member in zip(map(json.loads, file.path.read_text().splitlines()), members(made)):
        count = len(record["completion_ids"])
        assert len(record["values"]) == len(record["advantages"]) == len(record["returns"]) == count
        assert record["advantages"] == pytest.approx(list(member.columns["advantages"]), abs=1e-6)
        assert record["advantage"] == pytest.approx(sum(record["advantages"]) / count, abs=1e-5)


def test_a_resumed_source_goes_on_within_the_rollout_to_the_bit(sampler, tokenizer, tmp_path):
    """Pitfall 32: rollout, coefficient, and an early stop that was decided and not yet carried out."""
    how = {"kl_target": 0.5, "kl_horizon": 30, "early_stop_kl": 0.1}
    whole, first = source(sampler, tokenizer, **how), source(sampler, tokenizer, **how)
    for made in (whole, first):
        for moved in (0.0, 0.0, 0.2):
            made.next()
            made.observe({"policy/approxkl_avg": moved})
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = source(sampler, tokenizer, **how)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(6):
        wanted, now = whole.next(), second.next()
        assert torch.equal(now.forest.targets, wanted.forest.targets)
        for name in ("advantages", "returns", "old_values", "old_logprobs", "weights"):
            assert torch.equal(getattr(now, name), getattr(wanted, name))
    assert whole.state_dict()["algorithm"] == second.state_dict()["algorithm"]
