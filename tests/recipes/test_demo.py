import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from posttrain import embedded
from posttrain.recipes import scoring
from posttrain.recipes.demo import RECIPE, STORY, run_demo
from posttrain.recipes.demo_view import MODELS

needs_weights = pytest.mark.skipif(
    not Path(embedded.model_path(), "model.safetensors").exists(), reason="the embedded model is not in the package"
)

# A few steps leave a model that names nobody, but it ends its sentences.
SHORT = ["start.chat_rows=32", 'pairs.rules={".": "!", "?": "!"}', "dpo.num_train_epochs=1", "pairs.max_new_tokens=24"]
SHORT += ["grpo.max_steps=2", "grpo.per_device_train_batch_size=16", "start.problem_rows=8"]


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's tasks with eight rows each, and sixteen identity prompts to train on."""
    for name, make in list(scoring.TASKS.items()):
        task = make()
        small = dataclasses.replace(task, rows=task.rows[:8], max_new_tokens=8)
        monkeypatch.setitem(scoring.TASKS, name, lambda small=small: small)
    prompts = embedded.identity_prompts("train")[:16]
    monkeypatch.setattr(embedded, "identity_prompts", lambda split: prompts)


def tell(directory: Path, **options) -> tuple[dict, str]:
    """The summary of a demo, and what it showed."""
    with (directory.parent / "shown.txt").open("w", encoding="utf-8") as file:
        console = Console(width=100, record=True, file=file)
        summary = run_demo(directory, console=console, overrides=SHORT, **options)
    return summary, console.export_text()


@needs_weights
def test_the_story_is_told_from_start_to_end(tmp_path: Path, small_tasks) -> None:
    threads = torch.get_num_threads()
    summary, text = tell(tmp_path / "demo")
    for title, _ in STORY.values():
        assert title in text
    assert all(question.split()[0] in text for question in scoring.QUESTIONS)
    assert str(tmp_path / "demo" / "seed-0" / "dpo" / "model") in text.replace("\n", "")
    assert "pairs from 16 prompts" in text
    assert max(map(len, text.splitlines())) <= 100 + len(str(tmp_path))
    assert torch.get_num_threads() == threads

    stored = json.loads((tmp_path / "demo" / "demo.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(summary))
    assert set(stored["runs"][0]["scores"]) == set(MODELS)
    assert stored["mean_over_seeds"]["dpo_scores"]["battery"]["correct"]["low"] is None
    assert stored["passed"] == all(check["passed"] for check in stored["checks"])

    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tmp_path / "demo" / "seed-0" / "dpo" / "model")

    # What is finished is kept; a second seed is run beside it and both are averaged.
    record = tmp_path / "demo" / "seed-0" / "dpo" / "stage.json"
    before = record.stat().st_mtime_ns
    again, text = tell(tmp_path / "demo", seeds=2)
    assert record.stat().st_mtime_ns == before
    assert text.count("finished before, kept") == len(STORY)
    assert again["runs"][0]["scores"] == summary["runs"][0]["scores"]
    assert again["seeds"] == [0, 1]
    assert "mean over seeds" in text
    assert again["mean_over_seeds"]["dpo_scores"]["battery"]["correct"]["n"] == 2


def test_every_stage_has_its_line_in_the_story() -> None:
    from posttrain.config.recipe import load_recipe

    assert [stage.name for stage in load_recipe(RECIPE).stages] == list(STORY)


def test_the_real_model_recipe_is_the_demo_with_other_numbers() -> None:
    from posttrain.config.recipe import load_recipe

    demo, real = load_recipe(RECIPE), load_recipe(RECIPE.with_name("identity.yaml"))
    assert [(s.name, s.method) for s in demo.stages] == [(s.name, s.method) for s in real.stages]


@pytest.mark.slow
@needs_weights
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    summary = run_demo(tmp_path, seeds=3)
    assert summary["passed"], [check["text"] for check in summary["checks"] if not check["passed"]]
