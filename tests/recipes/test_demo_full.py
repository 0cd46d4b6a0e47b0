"""The full demo: its story covers its recipe, its numbers are read back and held to what it promises."""

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from posttrain import embedded
from posttrain.config.recipe import load_recipe
from posttrain.errors import ConfigError
from posttrain.recipes import demo, demo_full, scoring
from posttrain.stats import wilson


def write_run(directory: Path, *, ppo=170, battery=320, alarm=False) -> Path:
    """A run directory as the stages leave it: 400 battery questions, 200 of everything else."""
    for name in demo_full.MODELS:
        solved = {"dpo_scores": 60, "ppo_scores": ppo}.get(name, 100)
        right = battery if name == "ppo_scores" else 340
        stored = {
            "word_problems": {"correct": asdict(wilson(solved, 200))},
            "word_problems_greedy": {"correct": asdict(wilson(150, 200))},
            "battery": {"correct": asdict(wilson(right, 400))},
            "identity": {"deep_qwen": asdict(wilson(199, 200))},
        }
        (directory / name).mkdir(parents=True)
        (directory / name / "scores.json").write_text(json.dumps(stored))
    for stage, count in (("grpo", 7), ("ppo", 5), ("ppo_rm", 5)):
        (directory / stage).mkdir()
        (directory / stage / "samples.jsonl").write_text(json.dumps({"completion_ids": [1] * count}) + "\n")
    entry = {"alarm": "reward_hacking", "text": "oh"} if alarm else {"loss": 0.1}
    (directory / "ppo_rm" / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    (directory / "reward").mkdir()
    right = wilson(170, 200)
    found = {
        "pairs": 200, "accuracy": right.estimate, "accuracy_95": [right.low, right.high], "length_accuracy": 0.6
    }  # fmt: skip
    (directory / "reward" / "calibration.json").write_text(json.dumps(found))
    return directory


def test_the_recipe_is_the_demos_and_goes_on_with_what_the_story_tells() -> None:
    base, full = load_recipe(demo.RECIPE), load_recipe(demo.FULL)
    assert full.stages[: len(base.stages)] == base.stages
    assert [stage.name for stage in full.stages[len(base.stages) :]] == list(demo_full.STORY)
    assert {name for name in demo_full.MODELS if name not in demo_full.STORY} <= set(demo.STORY)


def test_ppo_samples_as_many_answers_as_grpo_does() -> None:
    full = load_recipe(demo.FULL)
    grpo = full.stage("grpo").resolve({})
    for name in ("ppo", "ppo_rm"):
        ppo = full.stage(name).resolve({})
        rollouts = ppo.max_steps / (ppo.num_ppo_epochs * ppo.num_mini_batches)
        assert rollouts * ppo.rollout_size() == grpo.max_steps * grpo.rollout_size()


def test_a_run_is_read_back_and_shown(tmp_path: Path) -> None:
    full = demo_full.read_all([write_run(tmp_path)])
    assert full.scores["ppo_scores"]["word_problems", "correct"] == wilson(170, 200)
    assert full.tokens == {"grpo_scores": 7, "ppo_scores": 5, "ppo_rm_scores": 5}
    assert full.accuracy == wilson(170, 200)
    assert [check.passed for check in demo_full.checks(full)] == [True, True]
    console = Console(width=100, record=True)
    console.print(demo_full.table(full))
    shown = console.export_text()
    assert "PPO, learned" in shown
    assert "85.0 [79, 89]% of held-out pairs" in shown
    assert "alarm" not in shown
    assert json.loads(json.dumps(full.as_dict(), default=asdict))["tokens"]["ppo_scores"] == 5


@pytest.mark.parametrize(("changes", "passed"), [({"ppo": 159}, [False, True]), ({"battery": 307}, [True, False])])
def test_what_it_promises_is_checked(tmp_path: Path, changes, passed) -> None:
    full = demo_full.read_all([write_run(tmp_path, **changes)])
    assert [check.passed for check in demo_full.checks(full)] == passed


def test_seeds_are_averaged_and_alarms_counted(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(i), ppo=160 + 10 * i, alarm=i > 0) for i in range(3)]
    full = demo_full.read_all(runs)
    assert full.scores["ppo_scores"]["word_problems", "correct"].estimate == pytest.approx(0.85)
    assert full.scores["ppo_scores"]["word_problems", "correct"].n == 3
    assert full.alarms == 2


def test_a_recipe_after_another_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("after: nowhere.yaml\nstages:\n  - {name: a, method: embedded}\n")
    with pytest.raises(ConfigError, match=r"line 1: after='nowhere.yaml' must be the file of another recipe"):
        load_recipe(path)
    (tmp_path / "base.yaml").write_text("stages:\n  - {name: a, method: embedded}\n")
    path.write_text("after: base.yaml\nstages:\n  - {name: a, method: embedded}\n")
    with pytest.raises(ConfigError, match="a second stage 'a'"):
        load_recipe(path)
    path.write_text("after: base.yaml\nstages:\n  - {name: b, method: embedded}\n")
    assert [stage.name for stage in load_recipe(path, ["a.chat_rows=5"]).stages] == ["a", "b"]


@pytest.mark.slow
def test_the_full_story_is_told_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of the recipe, at a size that teaches nothing."""
    for name, make in list(scoring.TASKS.items()):
        task = make()
        small = dataclasses.replace(task, rows=task.rows[:8], max_new_tokens=8)
        monkeypatch.setitem(scoring.TASKS, name, lambda small=small: small)
    prompts = embedded.identity_prompts("train")[:16]
    monkeypatch.setattr(embedded, "identity_prompts", lambda split: prompts)
    short = [
        "start.chat_rows=400",
        'pairs.rules={".": "!", "?": "!"}',
        "dpo.num_train_epochs=1",
        "start.problem_rows=60",
    ]
    short += ["pairs.max_new_tokens=24", "grpo.max_steps=2", "grpo.per_device_train_batch_size=16"]
    for name in ("ppo", "ppo_rm"):
        short += [f"{name}.max_steps=6", f"{name}.per_device_train_batch_size=8", f"{name}.value_warmup_steps=2"]
    with (tmp_path / "shown.txt").open("w", encoding="utf-8") as file:
        console = Console(width=100, record=True, file=file)
        summary = demo.run_demo(tmp_path / "demo", full=True, console=console, overrides=short)
    text = console.export_text()
    assert all(title in text for title, _ in demo_full.STORY.values())
    assert "Ways to learn from trying" in text
    assert summary["full"]["reward_model"]["accuracy"]["n"] > 10
    assert set(summary["full"]["tokens"]) == {"grpo_scores", "ppo_scores", "ppo_rm_scores"}
    assert (tmp_path / "demo" / "seed-0" / "report.html").is_file()
