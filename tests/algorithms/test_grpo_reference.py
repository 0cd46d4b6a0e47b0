"""The policy's loss and gradient equal a slow padded computation, for every option, on ragged groups, in every cut."""

import pytest
import torch
from policy_reference import padded_tables, policy_reference
from tiny import build_model

from posttrain.algorithms.grpo import AGGREGATIONS, PolicyLoss, policy_batch
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.models.learner import Learner
from posttrain.ops.advantages import group_advantages
from posttrain.types import Segment

CUTS = {1: 11, 40: 2, 10_000: 1}  # tokens of a pass -> passes
LENGTHS = [[1, 7, 3, 5], [8, 2, 2, 4], [6, 1, 9, 3]]  # of the completions of three prompts
REWARDS = [0.0, 1.0, 1.0, 0.5, 2.0, 0.0, 1.0, 0.0, 0.0, 3.0, 1.0, 0.0]
MASKED = (1, 2)  # this completion was cut off and is masked
MAX_COMPLETION_LENGTH, OTHER_STEP = 10, 31  # the rollout has a second step with so many tokens


def draw(seed, count):
    return torch.randint(384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def noise(seed, count, size):
    return (torch.randn(count, generator=torch.Generator().manual_seed(seed)) * size).tolist()


def completions_of(model, temperature, scale, baseline, old):
    """Twelve completions, sampled by a policy some way off the present one."""
    advantages = group_advantages(REWARDS, 4, scale=scale, baseline=baseline)
    made = []
    for group, lengths in enumerate(LENGTHS):
        for i, length in enumerate(lengths):
            made.append(
                {
                    "prompt": draw(group, 2 + 3 * group),
                    "tokens": draw(10 + 4 * group + i, length),
                    "advantage": advantages[4 * group + i],
                    "masked": (group, i) == MASKED,
                }
            )
    with torch.no_grad():
        tables = padded_tables(model, [(c["prompt"], c["tokens"]) for c in made], temperature)
    for i, (completion, table) in enumerate(zip(made, tables)):
        present = [float(row[token]) for row, token in zip(table, completion["tokens"])]
        shifted = [p + n for p, n in zip(present, noise(i, len(present), 0.4))]
        completion["old"] = shifted if old else None
        completion["ref"] = [p + n for p, n in zip(present, noise(50 + i, len(present), 0.7))]
    return made


def batch_of(completions, loss):
    """What a source makes of them: the masked completion has no leaf, but is counted as a sequence."""
    aggregation = AGGREGATIONS[loss.loss_type]
    lengths = [0 if c["masked"] else len(c["tokens"]) for c in completions]
    trees = []
    for start in range(0, len(completions), 4):
        leaves = []
        for c, length in zip(completions[start : start + 4], lengths[start : start + 4]):
            if length:
                columns = {
                    "advantages": [c["advantage"]] * length,
                    "weights": [aggregation.weight(length)] * length,
                    **({"old_logprobs": c["old"]} if c["old"] else {}),
                    **({"ref_logprobs": c["ref"]} if loss.beta else {}),
                }
                leaves.append(Segment(tokens=c["tokens"], trained=[(0, length)], columns=columns))
        trees.append(Segment(tokens=completions[start]["prompt"], children=leaves))
    unit = aggregation.unit(
        step=lengths, rollout=[*lengths, OTHER_STEP], steps=2, max_completion_length=MAX_COMPLETION_LENGTH
    )
    return policy_batch(trees, units={"policy": unit}, atom=loss.importance)


CASES = [
    *({"loss_type": name} for name in AGGREGATIONS),
    *({"loss_type": name, "importance": "sequence", "epsilon": 0.05} for name in AGGREGATIONS),
    *({"loss_type": name, "old": False} for name in ("grpo", "dapo", "cispo")),
    {"old": False, "importance": "sequence"},
    {"epsilon": 0.1, "epsilon_high": 0.3},
    {"delta": 1.4},
    {"delta": 1.1, "importance": "sequence", "epsilon": 0.05},
    {"loss_type": "cispo", "epsilon_high": 1.3},
    *({"beta": 0.3, "kl": kind} for kind in ("k1", "k2", "k3")),
    {"beta": 0.3, "kl": "k3", "loss_type": "grpo", "use_bias_correction_kl": True},
    {"beta": 0.3, "kl": "k1", "old": False, "use_bias_correction_kl": True},
    {"beta": 0.2, "importance": "sequence", "loss_type": "grpo", "use_bias_correction_kl": True},
    {"scale": "none", "baseline": "leave_one_out"},
    {"scale": "batch"},
    {"entropy_weight": 0.1},
    {"entropy_weight": 0.1, "loss_type": "grpo", "beta": 0.1, "importance": "sequence"},
    {"temperature": 0.7, "beta": 0.1, "entropy_weight": 0.05},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(f"{k}={v}" for k, v in case.items()))
def test_loss_and_gradient_equal_the_padded_reference_in_every_cut(case):
    """Pitfalls 11 (each aggregation on unequal lengths), 20, 21 and 31; the old log-probabilities are others."""
    options = dict(case)
    old, scale = options.pop("old", True), options.pop("scale", "group")
    baseline, temperature = options.pop("baseline", "mean"), options.pop("temperature", 1.0)
    loss = PolicyLoss(**options)
    model = build_model("llama", num_hidden_layers=1)
    completions = completions_of(model, temperature, scale, baseline, old)
    tokens = sum(len(c["tokens"]) for c in completions if not c["masked"]) + OTHER_STEP
    expected = policy_reference(
        model, completions, **options, temperature=temperature, max_completion_length=MAX_COMPLETION_LENGTH,
        tokens_per_step=tokens / 2,
    )  # fmt: skip
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in wanted.values()))
    batch = batch_of(completions, loss)
    learner = Learner(model)
    learner.temperature = temperature
    for max_tokens, passes in CUTS.items():
        result = step(
            learner, batch, loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), runtime=Runtime(use_cpu=True),
            budget=Budget(max_tokens=max_tokens), max_grad_norm=0.0, needs=("logprobs", "entropy", *loss.needs),
        )  # fmt: skip
        assert result.passes == passes
        assert result.loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-5)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-5)
        for name, parameter in model.named_parameters():
            assert (parameter.grad - wanted[name]).abs().max() < 1e-5 * float(norm), name


def test_the_old_logprobs_reach_both_sides_of_the_clip_range():
    """Otherwise the comparisons above would not have tried what they are for."""
    loss = PolicyLoss()
    model = build_model("llama", num_hidden_layers=1)
    completions = completions_of(model, 1.0, "group", "mean", True)
    batch = batch_of(completions, loss)
    metrics = loss(batch, Learner(model)(batch.forest)).metrics
    assert float(metrics["clip_ratio/low_mean"][0]) >= 3
    assert float(metrics["clip_ratio/high_mean"][0]) >= 3
    assert int(metrics["clip_ratio/region_mean"][1]) == len(batch.forest.targets) == 49
