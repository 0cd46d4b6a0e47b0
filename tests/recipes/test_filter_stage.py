"""The stage filter: what later stages evaluate on is looked for without being told."""

import json

import pytest

from posttrain.config.recipe import parse_recipe
from posttrain.errors import ConfigError, DataError
from posttrain.recipes.pipeline import run_recipe
from posttrain.recipes.questions import question_files

ASKED = "How many wooden chairs does the carpenter of this village sell in March?"

RECIPE = """
name: clean
output_dir: {home}
seed: 3
stages:
  - name: filter
    method: filter
    inputs: {data}
    {more}
  - name: check
    method: lint
    inputs: ${{filter.data}}
    against: {test}
    fail_on: never
"""


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(tmp_path, more="", rows=None):
    rows = rows or [
        {"prompt": f"Please: {ASKED.lower()}", "completion": "12"},
        {"prompt": "How many?", "completion": "13"},
        {"prompt": "Empty?", "completion": ""},
    ]
    data = write(tmp_path / "data.jsonl", rows)
    test = write(tmp_path / "test.jsonl", [{"question": ASKED, "answer": "12"}])
    recipe = parse_recipe(RECIPE.format(home=tmp_path / "home", data=data, test=test, more=more), "clean.yaml")
    return run_recipe(recipe, say=lambda line: None)["filter"], tmp_path / "home" / "filter"


def test_what_a_later_stage_evaluates_on_is_left_out(tmp_path):
    record, directory = run(tmp_path)
    assert record.outputs == {
        "data": str(directory / "data.jsonl"), "card": str(directory / "data.jsonl.card.json"),
    }  # fmt: skip
    assert record.summary == {"rows": 1, "of": 3}
    rejects = [json.loads(line) for line in (directory / "data.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [(reject["line"], reject["step"]) for reject in rejects] == [(1, "contamination"), (3, "empty")]
    assert rejects[0]["reason"].startswith(f"holds 100% of {tmp_path / 'test.jsonl'}:1")


def test_it_can_be_switched_off(tmp_path):
    record, _ = run(tmp_path, more="decontaminate: null")
    assert record.summary["rows"] == 2


def test_a_changed_evaluation_file_filters_anew(tmp_path):
    first, _ = run(tmp_path)
    test = tmp_path / "test.jsonl"
    again, _ = run(tmp_path)
    assert again.time_s == first.time_s  # kept
    write(test, [{"question": "How many?", "answer": "12"}])
    recipe = parse_recipe(
        RECIPE.format(home=tmp_path / "home", data=tmp_path / "data.jsonl", test=test, more=""), "clean.yaml"
    )
    assert run_recipe(recipe, say=lambda line: None)["filter"].summary["rows"] == 1
    kept = json.loads((tmp_path / "home" / "filter" / "data.jsonl").read_text())
    assert kept["prompt"].startswith("Please")


def test_nothing_left_stops_the_recipe(tmp_path):
    with pytest.raises(DataError, match="no row of 1 is left"):
        run(tmp_path, rows=[{"prompt": "Empty?", "completion": ""}])


def test_an_unknown_filter_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="min_answer_words"):
        run(tmp_path, more="min_answer_word: 3")


def test_tasks_by_name_and_definition_and_gates_become_questions(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}])
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text("name: mine\nfile: rows.jsonl\nprompt: 'Q: {question}'\ngrader: final_answer\n")
    gate = tmp_path / "gate.yaml"
    gate.write_text("targets: [{task: mine}]\ntasks: tasks.yaml\n")
    said: list[str] = []
    names = [rows, "questions", str(gate), "${later.data}", "lm_eval:hellaswag"]
    files = question_files(names, tmp_path / "stage", said.append)
    assert files == [rows, str(tmp_path / "stage" / "questions.jsonl")]
    found = [json.loads(line) for line in (tmp_path / "stage" / "questions.jsonl").read_text().splitlines()]
    assert {"prompt": "Who are you?", "task": "questions"} in found
    assert [row["prompt"] for row in found if row["task"] == "mine"] == ["Q: One?", "Q: Two?"]
    assert len(said) == 2
    assert "hellaswag" in said[1]
