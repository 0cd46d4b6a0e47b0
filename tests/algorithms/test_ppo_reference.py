"""From the scores of a rollout to the gradient: equal to slow loops over padded rows, with every option and cut."""

import pytest
import torch
from policy_reference import padded_tables
from ppo_reference import loss_reference, padded_states, read_values, rollout_reference
from tiny import build_model

from posttrain.algorithms.ppo import PPOLoss
from posttrain.data.prompts import PromptReport, PromptRow, PromptSet
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.models.learner import Learner
from posttrain.models.score_loading import score_model_of
from posttrain.models.value import ActorCritic, tree_values
from posttrain.sources.online import OnlinePlan
from posttrain.sources.per_token import PerToken, PerTokenPlan
from posttrain.sources.rollouts import Graded, Group
from posttrain.types import Completion, SamplingParams

CUTS = {1: 11, 40: 2, 10_000: 1}  # tokens of a pass -> passes
LENGTHS = [[1, 7, 3, 5], [8, 2, 2, 4], [6, 1, 9, 3]]  # of the completions of three prompts
REWARDS = [0.0, 1.0, 1.0, 0.5, 2.0, 0.0, None, 0.0, 0.0, 3.0, 1.0, -1.0]  # one could not be judged
TRUNCATED = (1, 4, 10)


def draw(seed, count):
    return torch.randint(3, 384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def noise(seed, count, size):
    return (torch.randn(count, generator=torch.Generator().manual_seed(seed)) * size).tolist()


def completions_of(model, temperature, moved):
    """Twelve completions; the policy that sampled them is some way off the present one."""
    made = []
    for i, length in enumerate(length for lengths in LENGTHS for length in lengths):
        made.append(
            {"prompt": draw(i // 4, 2 + 3 * (i // 4)), "tokens": draw(10 + i, length), "reward": REWARDS[i],
             "truncated": i in TRUNCATED}
        )  # fmt: skip
    with torch.no_grad():
        tables = padded_tables(model, [(c["prompt"], c["tokens"]) for c in made], temperature)
    for i, (c, table) in enumerate(zip(made, tables)):
        present = [float(row[token]) for row, token in zip(table, c["tokens"])]
        c["old"] = [p + n for p, n in zip(present, noise(i, len(present), 0.4 if moved else 0.0))]
        c["ref"] = [p + n for p, n in zip(present, noise(50 + i, len(present), 0.7))]
    return made


def prompt_set(completions):
    rows = [
        PromptRow(row=i, place=f"row {i}", prompt="?", tokens=completions[4 * i]["prompt"], columns={})
        for i in range(3)
    ]
    report = PromptReport(source="", understood="", rows=3, columns=(), lengths={}, notes=(), example="")
    return PromptSet(prompts=rows, report=report)


def groups_of(completions):
    made = [
        Graded(
            completion=Completion(
                text="", finish_reason="length" if c["truncated"] else "stop", tokens=tuple(c["tokens"]),
                logprobs=tuple(c["old"]),
            ),
            rewards={"r": c["reward"]}, reward=c["reward"],
        ).with_columns(ref_logprobs=c["ref"])
        for c in completions
    ]  # fmt: skip
    return [Group(number=i, prompt=i, members=tuple(made[4 * i : 4 * i + 4])) for i in range(3)]


def learner_of(model, kind):
    """A policy and a value model that says something: shared, detached, or a body of its own."""
    own = None if kind != "own" else score_model_of(build_model("llama", num_hidden_layers=1, seed=7))
    learner = ActorCritic(Learner(model), own, detached=kind == "detached")
    head = learner.value_head if own is None else own.score
    with torch.no_grad():
        head.weight.copy_(torch.tensor([noise(99, head.weight.shape[1], 0.1)]))
    return learner, own, head


CASES = [
    {},
    {"kind": "detached"},
    {"kind": "own"},
    {"gamma": 0.9, "lam": 0.6},
    {"lam_alpha": 0.5},
    {"value_lam": 1.0, "lam": 0.5},
    {"kl_coef": 0.0},
    {"whiten_rewards": True},
    {"missing_eos_penalty": 1.5},
    {"bootstrap_truncated": True, "gamma": 0.95},
    {"bootstrap_truncated": True, "kind": "own"},
    {"mask_truncated": True},
    {"cliprange": 0.05, "cliprange_value": 0.02, "vf_coef": 0.7},
    {"entropy_weight": 0.1, "temperature": 0.7},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(f"{k}={v}" for k, v in case.items()) or "plain")
def test_advantages_returns_loss_and_gradient_equal_the_reference_in_every_cut(case):
    """Pitfalls 10, 12, 21, 25, 29 and 30."""
    options = dict(case)
    kind, temperature = options.pop("kind", "shared"), options.pop("temperature", 1.0)
    loss = PPOLoss(**{n: options.pop(n) for n in ("cliprange", "cliprange_value", "vf_coef", "entropy_weight")
                      if n in options})  # fmt: skip
    how = PerTokenPlan(**{"kl_coef": 0.3, **options})
    model = build_model("llama", num_hidden_layers=1)
    completions = completions_of(model, temperature, moved=True)
    learner, own, head = learner_of(model, kind)
    learner.policy.temperature = temperature
    pairs = [(c["prompt"], c["tokens"]) for c in completions]
    with torch.no_grad():
        for c, states in zip(completions, padded_states(own or model, pairs)):
            *values, end = read_values(head, states).tolist()
            c["old_values"], c["end_value"] = values, end

    # what the source makes of it
    plan = OnlinePlan(
        params=SamplingParams(max_tokens=9), num_generations=4, groups=3, steps=1, num_iterations=2,
        reference_needed=how.kl_coef > 0, kl_tracked=False, resamples=0, random_rewards=False, strategy="random",
        seed=0, order_seed=0,
    )  # fmt: skip
    ends = how.bootstrap_truncated
    algorithm = PerToken(
        prompt_set(completions), plan, how,
        values=lambda trees: tree_values(trees, learner, 30, Runtime(use_cpu=True).autocast, ends=ends),
    )  # fmt: skip
    groups, _ = algorithm.weigh(groups_of(completions))
    members = [(group, member) for group in groups for member in group.members]

    trained = rollout_reference(
        completions, kl_coef=how.kl_coef, gamma=how.gamma, lam=how.lam, lam_alpha=how.lam_alpha,
        value_lam=how.value_lam, whiten_rewards=how.whiten_rewards, penalty=how.missing_eos_penalty, bootstrap=ends,
        mask=how.mask_truncated,
    )  # fmt: skip
    assert [m.advantage is not None for _, m in members] == ["advantages" in c for c in completions]
    known = [member for _, member in members if member.advantage is not None]
    for member, c in zip(known, trained, strict=True):
        assert member.columns["advantages"] == pytest.approx(c["advantages"], abs=1e-5)
        assert member.columns["returns"] == pytest.approx(c["returns"], abs=1e-5)

    # the values move between the rollout and the step, as they do in its second pass
    with torch.no_grad():
        head.weight.add_(torch.tensor([noise(98, head.weight.shape[1], 0.05)]))
    expected = loss_reference(
        model, head, trained, cliprange=loss.cliprange, cliprange_value=loss.cliprange_value, vf_coef=loss.vf_coef,
        entropy_weight=loss.entropy_weight, temperature=temperature, value_model=own, detached=kind == "detached",
    )  # fmt: skip
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in wanted.values()))
    batch = algorithm.batch(groups, members, 1)
    for max_tokens, passes in CUTS.items():
        result = step(
            learner, batch, loss, optimizer=torch.optim.SGD(learner.parameters(), lr=0.0),
            runtime=Runtime(use_cpu=True), budget=Budget(max_tokens=max_tokens), max_grad_norm=0.0,
            needs=("logprobs", *loss.needs),
        )  # fmt: skip
        assert result.passes == passes or how.mask_truncated
        assert result.loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-5)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-5)
        for name, parameter in learner.named_parameters():
            if name in wanted:
                assert (parameter.grad - wanted[name]).abs().max() < 1e-5 * float(norm), name


def test_the_comparison_reaches_both_sides_of_both_clip_ranges():
    """Otherwise it would not have tried what it is for."""
    model = build_model("llama", num_hidden_layers=1)
    completions = completions_of(model, 1.0, moved=True)
    learner, _, head = learner_of(model, "shared")
    with torch.no_grad():
        for c, states in zip(completions, padded_states(model, [(c["prompt"], c["tokens"]) for c in completions])):
            now = read_values(head, states)
            c["moved"] = now[:-1].tolist()
    plan = OnlinePlan(
        params=SamplingParams(max_tokens=9), num_generations=4, groups=3, steps=1, num_iterations=2,
        reference_needed=True, kl_tracked=False, resamples=0, random_rewards=False, strategy="random", seed=0,
        order_seed=0,
    )  # fmt: skip
    algorithm = PerToken(
        prompt_set(completions), plan, PerTokenPlan(),
        values=lambda trees: tree_values(trees, learner, 30, Runtime(use_cpu=True).autocast),
    )  # fmt: skip
    groups, _ = algorithm.weigh(groups_of(completions))
    with torch.no_grad():
        head.weight.add_(torch.tensor([noise(98, head.weight.shape[1], 0.05)]))
    batch = algorithm.batch(groups, [(g, m) for g in groups for m in g.members], 1)
    metrics = PPOLoss(cliprange_value=0.02)(batch, learner(batch.forest)).metrics
    assert float(metrics["clip_ratio/low_mean"][0]) >= 3
    assert float(metrics["clip_ratio/high_mean"][0]) >= 3
    assert 5 <= float(metrics["val/clipfrac_avg"][0]) <= metrics["val/clipfrac_avg"][1] - 5
