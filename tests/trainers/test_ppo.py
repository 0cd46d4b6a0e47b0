"""PPOTrainer: it learns, its first step is on policy, controls and guards work, bad input is told at once."""

import json

import jobs
import pytest
import torch
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from posttrain import PPOConfig, PPOTrainer
from posttrain.errors import ConfigError, ModelError, RewardError
from posttrain.models.score_loading import score_model_of

QUIET = {"use_cpu": True, "bf16": False, "num_threads": 1, "save_strategy": "no", "logging_steps": 1}


def make(
    tmp_path, reward, *, model=None, rows=jobs.PROMPTS, value_model=None, ref_model=None, peft_config=None, **more
):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 16, "num_ppo_epochs": 2, "kl_coef": 0.01,
        "max_completion_length": 4, "learning_rate": 3e-2, "max_steps": 6, "lr_scheduler_type": "constant", **QUIET,
    } | more  # fmt: skip
    return PPOTrainer(
        model=model or build_model("qwen2"), reward_funcs=reward, args=PPOConfig(**settings), train_dataset=rows,
        processing_class=build_tokenizer(), value_model=value_model, ref_model=ref_model, peft_config=peft_config,
    )  # fmt: skip


def train(*args, **options):
    trainer = make(*args, **options)
    trainer.train()
    return trainer


def logs(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def small_ids(completion_ids, **columns):
    return [sum(token < 100 for token in ids) / len(ids) for ids in completion_ids]


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_it_learns_what_is_rewarded_and_what_to_expect(tmp_path, kind):
    value_model = None if kind == "shared" else build_model("qwen2", seed=5)
    trainer = train(tmp_path, small_ids, value_model=value_model, num_mini_batches=2, max_steps=32, vf_coef=0.5)
    rewards, values = logs(trainer, "reward"), logs(trainer, "val/mean")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.25
    assert abs(values[-1] - logs(trainer, "returns/mean")[-1]) < 0.15 < rewards[-1]
    assert logs(trainer, "kl")[0] == pytest.approx(0, abs=1e-6)


def test_the_first_step_of_a_rollout_is_on_policy(tmp_path):
    """Pitfalls 20 and 22."""
    trainer = train(tmp_path, small_ids, max_steps=4, temperature=0.7)
    off = logs(trainer, "importance_ratio/abs_log_mean")
    assert off[0] < 1e-4 < off[1]
    assert off[2] < 1e-4 < off[3]
    assert logs(trainer, "val/ratio")[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value_model", [False, True])
def test_in_the_warm_up_only_the_value_model_learns(tmp_path, value_model):
    model = build_model("qwen2")
    before = {name: p.clone() for name, p in model.named_parameters()}
    seen = []

    def reward(completion_ids, **columns):
        seen.append(all(torch.equal(p, before[name]) for name, p in model.named_parameters()))
        return small_ids(completion_ids)

    own = build_model("qwen2", seed=5) if value_model else None
    trainer = train(tmp_path, reward, model=model, value_model=own, num_ppo_epochs=1, value_warmup_steps=3, max_steps=5)
    assert seen[-5:] == [True, True, True, True, False]
    assert logs(trainer, "val/mean")[0] != logs(trainer, "val/mean")[2]
    assert len(logs(trainer, "policy/approxkl_avg")) == 2  # there is no ratio to speak of before


def test_an_early_stop_samples_anew(tmp_path):
    whole = train(tmp_path / "a", small_ids, num_ppo_epochs=4, max_steps=8)
    stopped = train(tmp_path / "b", small_ids, num_ppo_epochs=4, max_steps=8, early_stop_kl=1e-3)
    assert len(logs(whole, "reward")) == 2
    assert len(logs(stopped, "reward")) > 2


def test_the_coefficient_is_steered(tmp_path):
    trainer = train(tmp_path, small_ids, kl_target=0.01, kl_horizon=100, kl_coef=0.05, max_steps=12)
    coefs = logs(trainer, "objective/kl_coef")
    assert coefs[0] == 0.05 > coefs[1]  # the KL is 0 at first, which is under the target
    assert coefs[-1] > coefs[2]


def test_adapters_of_policy_and_value_model_are_trained_and_bases_are_not(tmp_path):
    model, own = build_model("qwen2"), build_model("qwen2", seed=5)
    bases = [(p, p.clone()) for p in (*model.parameters(), *own.get_decoder().parameters())]
    trainer = train(tmp_path, small_ids, model=model, value_model=own, peft_config=jobs.ADAPTER, max_steps=3)
    assert all(torch.equal(now, before) for now, before in bases)
    for part in (trainer.model, trainer._learner.value_model):
        trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
        assert all("lora_" in name or "modules_to_save" in name for name in trained)
        assert all(p.abs().sum() > 0 for name, p in trained.items() if "lora_B" in name)


def test_the_saved_model_is_the_policy_alone(tmp_path):
    trainer = train(tmp_path, small_ids, max_steps=2, save_strategy="steps")
    trainer.save_model(tmp_path / "model")
    assert not (tmp_path / "model" / "value.safetensors").exists()
    assert (tmp_path / "checkpoint-2" / "value.safetensors").exists()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), trainer.model.parameters(), strict=True))


def test_a_reward_model_and_a_checker_together_and_the_reward_model_as_value_model(tmp_path):
    torch.manual_seed(0)
    judge = score_model_of(build_model("qwen2", seed=3))
    judge.config.architectures = ["Qwen2ForSequenceClassification"]
    judge.save_pretrained(tmp_path / "judge")
    build_tokenizer().save_pretrained(tmp_path / "judge")
    trainer = train(
        tmp_path / "run", [str(tmp_path / "judge"), small_ids], reward_weights=[1.0, 2.0], max_steps=1,
        value_model=str(tmp_path / "judge"),
    )  # fmt: skip
    learned, checked = (logs(trainer, f"rewards/{name}/mean")[0] for name in ("reward_model", "small_ids"))
    assert logs(trainer, "reward")[0] == pytest.approx(learned + 2 * checked, abs=1e-6)
    assert not trainer._learner.shared


def test_a_planted_loophole_raises_the_alarm(tmp_path, capsys):
    """A learned reward that likes small ids whatever they mean, beside a checker that wants others."""

    class Judge:
        __name__ = "judge"
        learned = True

        def __call__(self, completion_ids, **columns):
            return small_ids(completion_ids)

    def check(completion_ids, **columns):
        return [sum(token > 200 for token in ids) / len(ids) for ids in completion_ids]

    trainer = train(tmp_path, [Judge(), check], reward_weights=[1.0, 0.0], num_ppo_epochs=1, max_steps=16)
    assert "reward_hacking" in [entry.get("alarm") for entry in trainer.state.log_history]
    assert "the learned reward 'judge' went from" in capsys.readouterr().out
    honest = train(tmp_path, [Judge(), small_ids], reward_weights=[1.0, 0.0], num_ppo_epochs=1, max_steps=16)
    assert "reward_hacking" not in [entry.get("alarm") for entry in honest.state.log_history]


def test_another_reference_is_asked(tmp_path):
    trainer = train(tmp_path, small_ids, ref_model=build_model("qwen2", seed=9), max_steps=1)
    assert logs(trainer, "objective/kl")[0] > 0.1


def test_the_control_arm_learns_nothing_of_the_reward(tmp_path):
    trainer = train(tmp_path, small_ids, control="random-reward", max_steps=4)
    assert set(logs(trainer, "rewards/small_ids/mean")) != set(logs(trainer, "reward"))
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {record["reward"] for record in records} == {0.0, 1.0}


def test_rollouts_and_advantages_do_not_depend_on_how_they_are_decoded_and_cut(tmp_path):
    """Pitfalls 10 and 21."""
    one = train(tmp_path / "a", small_ids, max_steps=4)
    two = train(tmp_path / "b", small_ids, max_steps=4, rollout_batch_size=3, max_tokens_per_pass=20)
    assert logs(one, "reward") == logs(two, "reward")
    assert logs(one, "loss") == pytest.approx(logs(two, "loss"), abs=1e-5)


class TestBadInput:
    def test_models_that_would_change_along(self, tmp_path):
        model = build_model("qwen2")
        with pytest.raises(ConfigError, match="value_model is the very model that is trained"):
            make(tmp_path, small_ids, model=model, value_model=model)
        with pytest.raises(ConfigError, match="ref_model is the very model"):
            make(tmp_path, small_ids, model=model, ref_model=model)

    def test_a_value_model_that_is_also_a_reference_or_a_reward(self, tmp_path):
        other = score_model_of(build_model("qwen2", seed=5))
        with pytest.raises(ConfigError, match="shares its weights with a model of reward_funcs"):
            make(tmp_path, [small_ids, other], value_model=other)
        with pytest.raises(ConfigError, match="shares its weights with a model of reward_funcs"):
            make(tmp_path, {"name": "reward_model", "model": other}, value_model=other)
        language_model = build_model("qwen2", seed=5)
        with pytest.raises(ConfigError, match="shares its weights with ref_model"):
            make(tmp_path, small_ids, ref_model=language_model, value_model=score_model_of(language_model))

    def test_models_beside_the_policy_that_cannot_read_what_it_writes(self, tmp_path):
        with pytest.raises(ModelError, match=r"^ref_model: the tokenizer's ids go up to"):
            make(tmp_path, small_ids, ref_model=build_model("qwen2", vocab_size=100))
        for name in ("ref_model", "value_model"):
            with pytest.raises(ConfigError, match=f"^{name}: the longest prompt has"):
                make(tmp_path, small_ids, **{name: build_model("qwen2", max_position_embeddings=5)})

    def test_a_path_that_is_not_there(self, tmp_path):
        with pytest.raises(ModelError):
            make(tmp_path, small_ids, value_model=str(tmp_path / "nowhere"))

    def test_options_without_effect(self, tmp_path):
        with pytest.raises(ConfigError, match="detach_value_head"):
            make(tmp_path, small_ids, value_model=build_model("qwen2", seed=3), detach_value_head=True)
        with pytest.raises(ConfigError, match="ref_model has no effect"):
            make(tmp_path, small_ids, ref_model=build_model("qwen2", seed=3), kl_coef=0.0, track_kl=False)

    def test_no_reward_and_one_that_is_not_known(self, tmp_path):
        with pytest.raises(ConfigError, match="reward_funcs is missing"):
            make(tmp_path, None)
        with pytest.raises(RewardError, match="did you mean 'boxed"):
            make(tmp_path, "boxd_answer")

    def test_another_value_model_is_not_resumed(self, tmp_path):
        train(tmp_path, small_ids, max_steps=2, save_strategy="steps")
        other = make(tmp_path, small_ids, max_steps=2, save_strategy="steps", value_model=build_model("qwen2", seed=5))
        with pytest.raises(Exception, match="another starting model"):
            other.train(resume_from_checkpoint=True)
