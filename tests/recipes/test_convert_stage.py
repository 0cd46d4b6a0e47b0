import json
from pathlib import Path

from posttrain.config.recipe import load_recipe
from posttrain.recipes.pipeline import run_recipe

RECIPE = """
name: converted
output_dir: {folder}/run
stages:
  - name: chat
    method: convert
    inputs: {folder}/rows.jsonl
  - name: back
    method: convert
    inputs: ["${{chat.data}}"]
    to: alpaca
"""


def test_a_stage_converts_and_the_next_reads_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "A", "output": "a"}\n{"instruction": 3, "output": "b"}\n')
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    said: list[str] = []
    records = run_recipe(load_recipe(tmp_path / "recipe.yaml"), say=said.append)
    assert records["chat"].summary == {"rows read": 2, "rows written": 1, "rows rejected": 1}
    (row,) = [json.loads(line) for line in Path(records["back"].outputs["data"]).read_text().splitlines()]
    assert (row["instruction"], row["output"]) == ("A", "a")
    assert row["_provenance"] == {"source": str(tmp_path / "rows.jsonl"), "line": 1}
    assert json.loads(Path(records["back"].outputs["card"]).read_text())["counts"]["rows written"] == 1
    assert any("written as alpaca" in line for line in said)
    said.clear()
    run_recipe(load_recipe(tmp_path / "recipe.yaml"), say=said.append)
    assert [line for line in said if "finished before, kept" in line] == said
