"""GRPOTrainer: it learns, its first step is on policy, its controls and guards work, bad input is told at once."""

import json
import math

import jobs
import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain import GRPOConfig, GRPOTrainer
from posttrain.errors import ConfigError, DataError, RewardError
from posttrain.types import Unjudged

QUIET = {"use_cpu": True, "bf16": False, "num_threads": 1, "save_strategy": "no", "logging_steps": 1}


def train(tmp_path, reward, *, rows=jobs.PROMPTS, model=None, **options):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 16, "num_generations": 8,
        "max_completion_length": 4, "learning_rate": 3e-2, "max_steps": 6, "lr_scheduler_type": "constant", **QUIET,
    } | options  # fmt: skip
    trainer = GRPOTrainer(
        model=model or build_model("qwen2"), reward_funcs=reward, args=GRPOConfig(**settings),
        train_dataset=rows, processing_class=build_tokenizer(),
    )  # fmt: skip
    trainer.train()
    return trainer


def logs(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def small_ids(completion_ids, **columns):
    return [sum(token < 100 for token in ids) / len(ids) for ids in completion_ids]


def test_it_learns_what_is_rewarded(tmp_path):
    trainer = train(tmp_path, small_ids, max_steps=12)
    rewards = logs(trainer, "rewards/small_ids/mean")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    assert logs(trainer, "kl")[-1] > logs(trainer, "kl")[0] == pytest.approx(0, abs=1e-6)


def test_the_first_step_is_on_policy(tmp_path):
    """Pitfall 20: with the sampler's own log-probs the ratio of a new rollout is 1 to 1e-4."""
    trainer = train(tmp_path, small_ids, num_iterations=2, max_steps=4, loss_type="grpo", temperature=0.7)
    off = logs(trainer, "importance_ratio/abs_log_mean")
    assert off[0] < 1e-4 < off[1]
    assert off[2] < 1e-4 < off[3]  # a new rollout is sampled with the weights of the last step (pitfall 22)
    assert logs(trainer, "loss")[0] == pytest.approx(0, abs=1e-4)


def test_groups_without_signal_move_nothing(tmp_path):
    """Pitfall 27."""
    model = build_model("qwen2")
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer = train(tmp_path, lambda completions, **c: [0.5] * len(completions), model=model, max_steps=3)
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert logs(trainer, "frac_reward_zero_std") == [1.0] * 3
    assert logs(trainer, "grad_norm") == [0.0] * 3


def test_an_adapter_is_trained_and_the_base_is_not(tmp_path):
    model = build_model("qwen2", initializer_range=0.05)
    base = {name: p.clone() for name, p in model.named_parameters()}
    settings = GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, max_completion_length=4, beta=0.1,
                          learning_rate=1e-2, max_steps=3, **QUIET)  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=small_ids, args=settings, train_dataset=jobs.PROMPTS,
        processing_class=build_tokenizer(), peft_config=jobs.ADAPTER,
    )  # fmt: skip
    trainer.train()
    after = {
        n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in trainer.model.named_parameters()
    }
    assert all(torch.equal(after[name], p) for name, p in base.items())
    assert any(p.abs().sum() > 0 for name, p in after.items() if "lora_B" in name)
    assert logs(trainer, "kl")[0] == pytest.approx(0, abs=1e-6)


def test_unjudged_completions_are_counted_and_do_not_count(tmp_path):
    """Pitfall 28."""

    def judge(completions, **columns):
        return [Unjudged("timed out") if n % 2 else float(n % 4) for n in range(len(completions))]

    trainer = train(tmp_path, judge, max_steps=2)
    assert logs(trainer, "rewards/unjudged") == [0.5, 0.5]
    assert [entry["alarm"] for entry in trainer.state.log_history if "alarm" in entry] == ["unjudged"]
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert all((record["advantage"] is None) == (record["reward"] is None) for record in records)


def test_an_alarm_can_end_the_run_and_says_why(tmp_path, capsys):
    trainer = train(tmp_path, small_ids, max_steps=20, max_kl=1e-9, stop_on_alarm=["kl"], save_strategy="steps")
    assert trainer.state.global_step < 20
    assert "Alarm kl at step" in capsys.readouterr().out
    assert (tmp_path / f"checkpoint-{trainer.state.global_step}").is_dir()


def test_the_control_arm_learns_nothing_of_the_reward(tmp_path):
    trainer = train(tmp_path, small_ids, control="random-reward", max_steps=4)
    assert set(logs(trainer, "rewards/small_ids/mean")) != set(logs(trainer, "reward"))
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {record["reward"] for record in records} == {0.0, 1.0}


def test_several_rewards_are_weighted_and_logged_by_name(tmp_path):
    def ones(completions, **columns):
        return [1.0] * len(completions)

    trainer = train(tmp_path, [small_ids, ones], reward_weights=[2.0, 0.5], max_steps=1)
    small, total = logs(trainer, "rewards/small_ids/mean")[0], logs(trainer, "reward")[0]
    assert total == pytest.approx(2 * small + 0.5)
    assert logs(trainer, "rewards/ones/mean") == [1.0]


def test_the_entropy_bonus_keeps_the_entropy_up(tmp_path):
    plain = train(tmp_path / "a", small_ids, max_steps=8)
    kept = train(tmp_path / "b", small_ids, max_steps=8, entropy_coef=0.5)
    assert logs(kept, "entropy")[-1] > logs(plain, "entropy")[-1] + 0.1


def test_rollouts_do_not_depend_on_how_they_are_decoded_and_cut(tmp_path):
    """Pitfalls 10 and 21."""
    one = train(tmp_path / "a", small_ids, max_steps=3)
    two = train(tmp_path / "b", small_ids, max_steps=3, rollout_batch_size=3, max_tokens_per_pass=20)
    assert logs(one, "reward") == logs(two, "reward")
    assert logs(one, "loss") == pytest.approx(logs(two, "loss"), abs=1e-5)


def test_evaluation_samples_the_evaluation_prompts(tmp_path):
    settings = GRPOConfig(
        output_dir=str(tmp_path), max_completion_length=4, num_generations_eval=3, max_steps=1, **QUIET
    )
    trainer = GRPOTrainer(
        model=build_model("qwen2"), reward_funcs=small_ids, args=settings, eval_dataset=jobs.PROMPTS[:4],
        processing_class=build_tokenizer(),
    )  # fmt: skip
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first == second
    assert 0 <= first["eval_reward"] <= 1
    assert not math.isnan(first["eval_reward"])


def test_completions_can_be_shown(tmp_path, capsys):
    train(tmp_path, small_ids, max_steps=1, log_completions=True, num_completions_to_print=2)
    assert "Completions at step 1" in capsys.readouterr().out


def test_a_reward_that_raises_late_keeps_what_was_trained(tmp_path):
    def make(reward):
        settings = GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=8, max_completion_length=4, learning_rate=1e-2,
            max_steps=4, **QUIET | {"save_strategy": "steps"},
        )  # fmt: skip
        return GRPOTrainer(
            model=build_model("qwen2"), reward_funcs=reward, args=settings, train_dataset=jobs.PROMPTS,
            processing_class=build_tokenizer(),
        )  # fmt: skip

    calls = []

    def reward(completion_ids, **columns):
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("the verifier broke")
        return small_ids(completion_ids)

    with pytest.raises(RewardError, match="the verifier broke"):
        make(reward).train()
    resumed = make(reward)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    whole = make(reward)
    whole.train()
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))


class TestBadInput:
    def make(self, tmp_path, *, reward=small_ids, rows=jobs.PROMPTS, **options):
        settings = {"output_dir": str(tmp_path), "max_completion_length": 4, "max_steps": 1, **QUIET} | options
        return GRPOTrainer(
            model=build_model("qwen2"), reward_funcs=reward, args=GRPOConfig(**settings), train_dataset=rows,
            processing_class=build_tokenizer(),
        )  # fmt: skip

    def test_no_reward(self, tmp_path):
        with pytest.raises(ConfigError, match="reward_funcs is missing"):
            self.make(tmp_path, reward=None)

    def test_an_unknown_reward(self, tmp_path):
        with pytest.raises(RewardError, match="did you mean 'boxed"):
            self.make(tmp_path, reward="boxd_answer")

    def test_a_column_that_is_not_there(self, tmp_path):
        def reward(completions, ground_truth, **columns):
            return [0.0] * len(completions)

        with pytest.raises(RewardError, match="'ground_truth', which is no column"):
            self.make(tmp_path, reward=reward)

    def test_a_reward_of_the_wrong_length(self, tmp_path):
        with pytest.raises(RewardError, match="returned 1 values for 8 completions"):
            self.make(tmp_path, reward=lambda completions, **c: [0.0]).train()

    def test_nan_names_the_row(self, tmp_path):
        with pytest.raises(RewardError, match=r"nan for row \d of train_dataset, completion 1"):
            self.make(tmp_path, reward=lambda completions, **c: [math.nan] * len(completions)).train()

    def test_a_reward_that_raises_names_itself_and_the_row(self, tmp_path):
        """Pitfall 28."""

        def breaks(completions, **columns):
            raise ZeroDivisionError("oh")

        with pytest.raises(RewardError, match=r"'breaks' raised for row \d of train_dataset, completion 1.*oh"):
            self.make(tmp_path, reward=breaks).train()

    def test_a_group_of_one(self, tmp_path):
        with pytest.raises(ConfigError, match="a group of one has no baseline"):
            self.make(tmp_path, num_generations=1)

    def test_a_prompt_longer_than_the_context(self, tmp_path):
        with pytest.raises(ConfigError, match=r"longest prompt has .* more than the 512 positions"):
            self.make(tmp_path, rows=[{"prompt": "a b c d " * 200}])

    def test_rows_without_prompts(self, tmp_path):
        with pytest.raises(DataError, match="hold no prompt"):
            self.make(tmp_path, rows=[{"text": "a"}])


def test_rewards_see_the_run_and_note_what_they_like(tmp_path):
    seen = []

    def reward(completions, trainer_state, log_extra, log_metric, **columns):
        seen.append(trainer_state.global_step)
        log_extra("first", [text[:1] for text in completions])
        log_metric("letters", sum(map(len, completions)))
        return [float(len(text)) for text in completions]

    trainer = train(tmp_path, reward, max_steps=2)
    assert seen == [0, 1]
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert logs(trainer, "letters") == [
        sum(len(record["completion"]) for record in records if record["step"] == step) for step in (1, 2)
    ]
    assert all(record["noted"] == {"first": record["completion"][:1]} for record in records)


def test_notes_that_do_not_fit_stop_the_run(tmp_path):
    def reward(completions, log_extra, **columns):
        log_extra("first", ["a"])
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"log_extra\('first', \.\.\.\) was given 1 values for 16 completions"):
        train(tmp_path, reward)
