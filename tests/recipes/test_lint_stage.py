import json

import pytest

from posttrain.config.recipe import parse_recipe
from posttrain.errors import DataError
from posttrain.recipes.pipeline import run_recipe

RECIPE = """
name: check
output_dir: {home}
stages:
  - name: look
    method: lint
    inputs: {data}
"""


def run(tmp_path, rows, overrides=()):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = parse_recipe(RECIPE.format(home=tmp_path / "home", data=data), "check.yaml", overrides)
    return run_recipe(recipe, say=lambda line: None)["look"], tmp_path / "home" / "look"


def rows(count):
    return [{"prompt": f"What is {i}?", "completion": f"A number, namely {i}."} for i in range(count)]


def test_report_is_left_and_data_is_handed_on(tmp_path):
    record, directory = run(tmp_path, [*rows(5), {"prompt": "Hm?", "completion": ""}])
    assert record.outputs == {"data": str(tmp_path / "data.jsonl"), "report": str(directory / "lint.json")}
    assert record.summary == {"rows": 6, "errors": 0, "warnings": 1, "notes": 0}
    assert json.loads((directory / "lint.json").read_text())["status"] == 1


def test_errors_stop_the_recipe_and_warnings_where_told(tmp_path):
    with pytest.raises(DataError, match="1 error"):
        run(tmp_path, [*rows(5), {"prompt": "Hm?"}])
    assert json.loads((tmp_path / "home" / "look" / "lint.json").read_text())["status"] == 2
    with pytest.raises(DataError, match="1 warning"):
        run(tmp_path, [*rows(5), {"prompt": "Hm?", "completion": ""}], ["look.fail_on=warning"])
    record, _ = run(tmp_path, [*rows(5), {"prompt": "Hm?"}], ["look.fail_on=never"])
    assert record.summary["errors"] == 1
