"""The stages in which a model makes data, one after the other, and what they leave when something fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from posttrain.config.recipe import load_recipe
from posttrain.errors import ConfigError, DataError, SamplingError
from posttrain.recipes.pipeline import run_recipe

RECIPE = """
name: made
output_dir: runs
stages:
  - name: answers
    method: distill
    model: tiny
    endpoint: URL
    inputs: p.jsonl
    count: 2
  - name: kept
    method: reject_sample
    model: tiny
    endpoint: URL
    inputs: [p.jsonl]
    reward: mine.py:length
    threshold: 3
    count: 2
  - name: pairs
    method: pairs_sample
    model: tiny
    endpoint: URL
    inputs: ${kept.mixed}
    reward: mine.py:length
    count: 2
"""
REWARD = """
def length(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]
"""


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(text=lambda prompt, seed: f"{prompt}{seed % 2 * '!'}") as started:
        yield started


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("a", "bb", "ccc")))
    return tmp_path


def recipe(text: str) -> Any:
    Path("made.yaml").write_text(text)
    return load_recipe("made.yaml")


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_each_stage_reads_what_the_one_before_left(server: ChatServer, here: Path) -> None:
    told: list[str] = []
    counted: list[tuple[str, int, int]] = []
    made = recipe(RECIPE.replace("URL", server.url))
    records = run_recipe(made, say=told.append, progress=lambda *at: counted.append(at))
    assert records["answers"].summary == {"rows": 6}
    assert len(lines(records["answers"].outputs["data"])) == 6
    # one of two answers has a letter more: "a" reaches three with neither, "bb" with one, "ccc" with both
    assert [row["prompt"] for row in lines(records["kept"].outputs["mixed"])] == ["bb"]
    assert [row["prompt"] for row in lines(records["kept"].outputs["solved"])] == ["ccc"]
    (pair,) = lines(records["pairs"].outputs["data"])
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("bb!", "bb")
    # where the prompt stood at first, not in the list that was made of it
    assert (pair["_provenance"]["source"], pair["_provenance"]["line"]) == ("p.jsonl", 2)
    assert json.loads(Path(records["kept"].outputs["card"]).read_text())["counts"]["pass@2"].startswith("66.7%")
    assert any("2 rows from 3 prompts (rejected: 1 at 'threshold')" in line for line in told)
    assert counted[-1][0] == "answers"
    before = len(server.bodies)
    run_recipe(made, say=told.append)
    assert len(server.bodies) == before
    assert told[-1].endswith("finished before, kept")


def test_failed_prompts_stop_the_recipe_and_are_asked_again(server: ChatServer, here: Path) -> None:
    made = recipe(RECIPE.replace("URL", server.url))
    server.refuse = lambda body: "busy" if body["messages"][-1]["content"] == "bb" else None
    with pytest.raises(SamplingError, match=r"1 prompts failed; run the recipe again"):
        run_recipe(made, say=lambda line: None)
    server.refuse = lambda body: None
    before = len(server.bodies)
    run_recipe(made, only="answers", say=lambda line: None)
    assert [body["messages"][-1]["content"] for body in server.bodies[before:]] == ["bb"]


def test_a_stage_that_leaves_nothing_says_so(server: ChatServer, here: Path) -> None:
    made = recipe(RECIPE.replace("URL", server.url).replace("threshold: 3", "threshold: 9"))
    with pytest.raises(DataError, match=r"nothing is left to go on with: 0 rows from 3 prompts.*'threshold'.*rejects"):
        run_recipe(made, say=lambda line: None)


def test_pairs_by_correction_under_the_names_that_recipes_have(here: Path, tiny_model_dir: Callable[..., str]) -> None:
    text = f"""
stages:
  - name: pairs
    method: pairs_correct
    model: {tiny_model_dir()}
    prompts: p.jsonl
    function: mine.py:mend
    max_new_tokens: 4
    batch_size: 2
    keep_unfinished: true
    do_sample: true
    seed: 3
"""
    (here / "mine.py").write_text("def mend(text):\n    return text + '.'\n")
    made = recipe(text)
    records = run_recipe(made, say=lambda line: None)
    rows = lines(records["pairs"].outputs["data"])
    assert records["pairs"].summary == {"pairs": len(rows)}
    assert rows
    assert all(row["chosen"][0]["content"] == row["rejected"][0]["content"] + "." for row in rows)
    assert rows[0]["_provenance"]["sampling"]["temperature"] == 1.0
    with pytest.raises(DataError, match=r"line 6.*prompts='q\.jsonl' does not exist"):
        run_recipe(recipe(text.replace("p.jsonl", "q.jsonl")), say=lambda line: None)
    with pytest.raises(ConfigError, match="only together with do_sample"):
        recipe(text.replace("do_sample: true", "temperature: 0.3"))
