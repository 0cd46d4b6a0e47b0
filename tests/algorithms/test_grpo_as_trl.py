"""The policy's loss, its gradient, its metrics and the advantages against TRL's own on the same completions."""

import os

import pytest

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
pytest.importorskip("trl.trainer.grpo_trainer", reason="compares with TRL, which the `test` extra installs")

import torch
from datasets import Dataset
from tiny import build_model, build_tokenizer
from trl import GRPOConfig, GRPOTrainer

from posttrain.algorithms.grpo import AGGREGATIONS, PolicyLoss, policy_batch
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.models.learner import Learner
from posttrain.ops.advantages import group_advantages
from posttrain.types import Segment

TEMPERATURE, LONGEST = 0.7, 8
PROMPTS = ["You are", "Tell me who"]
REWARDS = [1.0, 0.0, None, 0.5, 2.0, 2.0, 0.0, 1.0]  # None: no reward applied
EQUAL = [0.1, 0.1, 0.1, 0.1, 0.0, 1.0, 0.0, 3.0]
LENGTHS = [3, 8, 2, 5, 1, 6, 8, 4]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return GRPOTrainer(
        model=build_model("qwen3"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=8, num_generations=4,
            max_completion_length=LONGEST, temperature=TEMPERATURE, use_cpu=True, bf16=False, report_to="none",
            gradient_checkpointing=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=build_tokenizer(padding_side="left"),
    )  # fmt: skip


@pytest.mark.parametrize("rewards", [REWARDS, EQUAL], ids=["one not judged", "one group equal"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages(trainer, monkeypatch, scale, rewards):
    monkeypatch.setattr(trainer, "reward_funcs", [lambda completions, **_: rewards])
    monkeypatch.setattr(trainer, "scale_rewards", scale)
    theirs = trainer._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(4)])["advantages"]
    ours = group_advantages(rewards, 4, scale=scale)
    assert [a is None for a in ours] == [reward is None for reward in rewards]
    torch.testing.assert_close(torch.tensor([a or 0.0 for a in ours]), theirs, rtol=1e-4, atol=1e-5)


def draw(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(trainer):
    """What TRL's source would hand to its loss: eight completions of unequal length, padded on both sides."""
    prompts = (draw(1, 2, 5) * 380).long().repeat_interleave(4, dim=0)
    prompt_mask = torch.ones_like(prompts)
    prompt_mask[:4, :2] = 0  # the first prompt has three tokens
    completions = (draw(2, 8, LONGEST) * 380).long()
    mask = (torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None]).long()
    rows, row_mask = torch.cat([prompts, completions], 1), torch.cat([prompt_mask, mask], 1)
    with torch.no_grad():
        present, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, rows, row_mask, LONGEST)
    return {
        "prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": completions, "completion_mask": mask,
        "advantages": torch.tensor([a or 0.0 for a in group_advantages(REWARDS, 4)]),
        "old_per_token_logps": present + 0.8 * (draw(3, 8, LONGEST) - 0.5),
        "ref_per_token_logps": present + 2 * (draw(4, 8, LONGEST) - 0.5),
        "num_items_in_batch": torch.tensor(float(sum(LENGTHS))),
    }  # fmt: skip


def batch_of(inputs, loss):
    aggregation = AGGREGATIONS[loss.loss_type]
    trees = []
    for start in (0, 4):
        leaves = []
        for i in range(start, start + 4):
            n = LENGTHS[i]
            columns = {
                "advantages": [float(inputs["advantages"][i])] * n,
                "weights": [aggregation.weight(n)] * n,
                "old_logprobs": inputs["old_per_token_logps"][i, :n].tolist(),
                "ref_logprobs": inputs["ref_per_token_logps"][i, :n].tolist(),
            }
            if inputs["old_is_none"]:
                del columns["old_logprobs"]
            leaves.append(Segment(tokens=inputs["completion_ids"][i, :n].tolist(), trained=[(0, n)], columns=columns))
        prompt = inputs["prompt_ids"][start][inputs["prompt_mask"][start] == 1].tolist()
        trees.append(Segment(tokens=prompt, children=leaves))
    unit = aggregation.unit(step=LENGTHS, rollout=LENGTHS, steps=1, max_completion_length=LONGEST)
    return policy_batch(trees, units={"policy": unit}, atom=loss.importance)


@pytest.mark.parametrize(
    "options",
    [
        *({"loss_type": name} for name in AGGREGATIONS),
        {"loss_type": "grpo", "importance": "sequence", "epsilon": 0.02, "epsilon_high": 0.05},
        {"loss_type": "dapo", "importance": "sequence", "epsilon": 0.02, "delta": 1.1},
        {"loss_type": "cispo", "epsilon_high": 1.2},
        {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.28, "delta": 1.4},
        {"loss_type": "dapo", "beta": 0.2},
        {"loss_type": "grpo", "beta": 0.2, "use_bias_correction_kl": True},
        {"loss_type": "bnpo", "entropy_weight": 0.3},
        {"loss_type": "grpo", "old_is_none": True},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()),
)
def test_loss_gradient_and_metrics(trainer, monkeypatch, options):
    options = dict(options)
    inputs = inputs_of(trainer) | {"old_is_none": options.pop("old_is_none", False)}
    loss = PolicyLoss(**options)
    for name, value in {
        "loss_type": loss.loss_type, "epsilon_low": loss.epsilon, "beta": loss.beta,
        "epsilon_high": loss.epsilon if loss.epsilon_high is None else loss.epsilon_high,
        "importance_sampling_level": loss.importance, "entropy_coef": loss.entropy_weight,
        "_entropy_bonus_enabled": bool(loss.entropy_weight),
    }.items():  # fmt: skip
        monkeypatch.setattr(trainer, name, value)
    monkeypatch.setattr(trainer.args, "delta", loss.delta)
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", loss.use_bias_correction_kl)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    monkeypatch.setattr(trainer.args, "steps_per_generation", 1)
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    given = {k: v for k, v in inputs.items() if k != "old_per_token_logps" or not inputs["old_is_none"]}
    theirs = trainer._compute_loss(trainer.model, given)
    theirs.backward()

    model = build_model("qwen3")
    learner = Learner(model)
    learner.temperature = TEMPERATURE
    ours = step(
        learner, batch_of(inputs, loss), loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        runtime=Runtime(use_cpu=True), budget=Budget(max_tokens=10_000), max_grad_norm=0.0,
        needs=("logprobs", "entropy", *loss.needs),
    )  # fmt: skip
    assert ours.loss == pytest.approx(float(theirs.detach()), rel=1e-4, abs=1e-5)
    for (name, a), b in zip(model.named_parameters(), trainer.model.parameters()):
        assert (a.grad - b.grad).abs().max() < 2e-5 * ours.grad_norm, name
    means = {name: total / count for name, (total, count) in ours.metrics.items()}
    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
    shared = means.keys() & logged.keys()
    clipping = {"cispo_clip_ratio"} if loss.loss_type == "cispo" else {"clip_ratio/low_mean", "clip_ratio/region_mean"}
    assert shared >= {"entropy", *clipping}
    if loss.beta and not loss.use_bias_correction_kl:  # there TRL logs the estimate times the ratio
        assert "kl" in shared
    else:
        shared -= {"kl"}
    for name in shared:
        assert means[name] == pytest.approx(logged[name], rel=1e-4, abs=1e-6), name
