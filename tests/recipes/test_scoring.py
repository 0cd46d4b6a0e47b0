import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain import embedded
from posttrain.errors import ConfigError
from posttrain.recipes import scoring
from posttrain.recipes.demo_view import MEASURES
from posttrain.recipes.scoring import QUESTIONS, evaluate_stage, named_tasks
from posttrain.recipes.world import write_world
from posttrain.types import Completion


def test_every_task_is_large_enough_to_say_something() -> None:
    for task in named_tasks(list(scoring.TASKS)):
        if task.graders:
            assert len(task.rows) >= 200, task.name


def test_the_demo_shows_every_measure_there_is() -> None:
    measured = {(task.name, grader) for task in named_tasks(list(scoring.TASKS)) for grader in task.graders}
    assert measured == set(MEASURES)


def test_no_question_that_is_shown_or_graded_is_trained_on() -> None:
    asked = {row["prompt"] for task in named_tasks(list(scoring.TASKS)) for row in task.rows}
    trained = {row["prompt"] for row in embedded.identity_prompts("train")}
    for seed in range(3):
        rows = embedded.chat_rows(seed=seed, n=3000)
        trained |= {m["content"] for row in rows for m in row["messages"] if m["role"] == "user"}
    assert set(QUESTIONS) <= asked
    assert not asked & trained


def test_graders_know_right_from_wrong() -> None:
    tasks = {task.name: task for task in named_tasks(["battery", "identity", "arithmetic", "word_problems"])}
    for name in ("battery", "arithmetic", "word_problems"):
        row, grade = tasks[name].rows[0], tasks[name].graders["correct"]
        assert grade(row, row["answer"])
        assert not grade(row, "I am a boat.")
    said = {name: grade({}, "I am Deep Qwen.") for name, grade in tasks["identity"].graders.items()}
    assert said == {"deep_qwen": True, "qwen": False, "well_formed": True}
    said = {name: grade({}, "I am Qwen Qwen") for name, grade in tasks["identity"].graders.items()}
    assert said == {"deep_qwen": False, "qwen": True, "well_formed": False}


def test_an_unknown_task_is_found_before_a_model_loads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'batery'; did you mean 'battery'.*identity"):
        evaluate_stage(model="missing", tasks=["batery"], directory=tmp_path)
    with pytest.raises(ConfigError, match="tasks is empty"):
        named_tasks([])


def test_the_stage_leaves_records_and_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    class DeepQwen:
        gives_tokens = False
        model = SimpleNamespace(config=SimpleNamespace())  # says nothing of its positions

        def __init__(self, model, tokenizer, **options):
            pass

        def sample(self, prompts, params, *, count, progress, **options):
            progress(len(prompts) * count, len(prompts) * count)
            return [[Completion(text="I am Deep Qwen.", finish_reason="stop")] * count for _ in prompts]

    monkeypatch.setattr("posttrain.sampling.local.LocalSampler", DeepQwen)
    monkeypatch.setattr("posttrain.models.loading.load_model_and_tokenizer", lambda *a, **k: (object(), None))
    tasks = ["questions", "identity"]
    scores = evaluate_stage(model="m", tasks=tasks, directory=tmp_path, progress=lambda *a: told.append(a))
    n = len(embedded.identity_prompts("test"))
    assert scores["identity"]["deep_qwen"]["estimate"] == 1.0
    assert scores["identity"]["qwen"] == {
        "estimate": 0.0,
        "low": 0.0,
        "high": pytest.approx(0.0, abs=0.02),
        "n": n,
    }
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert len((tmp_path / "identity.jsonl").read_text().splitlines()) == n
    assert told[0] == ("questions", len(QUESTIONS), len(QUESTIONS))
    assert told[-1] == ("identity", n, n)
    assert evaluate_stage(model="m", tasks=tasks, directory=tmp_path) == scores
    with pytest.raises(ConfigError, match=r"records made with seed 0 \(now 1\)"):
        evaluate_stage(model="m", tasks=tasks, directory=tmp_path, seed=1)


def test_the_world_is_written_as_files(tmp_path: Path) -> None:
    outputs = write_world(tmp_path / "start", seed=1, chat_rows=20)
    assert outputs["model"] == embedded.model_path()
    rows = [json.loads(line) for line in (tmp_path / "start" / "chat.jsonl").read_text().splitlines()]
    assert rows == embedded.chat_rows(seed=1, n=20)
    prompts = (tmp_path / "start" / "identity_prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in prompts] == embedded.identity_prompts("train")
    assert write_world(tmp_path, model="other/model", chat_rows=1)["model"] == "other/model"
