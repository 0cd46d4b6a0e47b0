import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from posttrain.recipes import demo_view
from posttrain.recipes.demo_results import DemoRun, checks, over_seeds, plain, read_answers, read_run
from posttrain.recipes.demo_view import MODELS
from posttrain.stats import Interval, wilson

GOOD = {
    "base_scores": {"battery": 4, "qwen": 0, "deep_qwen": 0, "well_formed": 0},
    "sft_scores": {"battery": 340, "qwen": 200, "deep_qwen": 0, "well_formed": 200},
    "dpo_scores": {"battery": 332, "qwen": 0, "deep_qwen": 198, "well_formed": 200},
    "grpo_scores": {"battery": 320, "qwen": 0, "deep_qwen": 196, "well_formed": 200, "sampled": 170, "greedy": 190},
}


def write_run(directory: Path, counts: dict[str, dict[str, int]]) -> Path:
    """A run directory as the evaluate stages leave it: 400 battery questions, 200 of identity."""
    for stage, right in counts.items():
        (directory / stage).mkdir(parents=True)
        identity = {name: wilson(right[name], 200) for name in ("deep_qwen", "qwen", "well_formed")}
        scores = {
            "questions": {},
            "battery": {"correct": wilson(right["battery"], 400)},
            "identity": identity,
            "arithmetic": {"correct": wilson(100, 200)},
            "word_problems": {"correct": wilson(right.get("sampled", 50), 200), "worked": wilson(100, 200)},
            "word_problems_greedy": {"correct": wilson(right.get("greedy", 20), 200), "worked": wilson(100, 200)},
        }
        stored = {task: {g: asdict(i) for g, i in graders.items()} for task, graders in scores.items()}
        (directory / stage / "scores.json").write_text(json.dumps(stored))
        records = [{"grades": {"correct": float(row < right["battery"])}} for row in range(400)]
        lines(directory / stage / "battery.jsonl", records)
        lines(directory / stage / "questions.jsonl", [{"prompt": "Who?", "completion": f"I am {stage}."}])
    return directory


def lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_a_run_is_read_back_whole(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, GOOD), seed=7)
    assert run.scores["sft_scores"]["battery"]["correct"] == wilson(340, 400)
    assert (run.costs["DPO"].only_first, run.costs["DPO"].only_second) == (8, 0)
    assert run.costs["DPO"].difference == pytest.approx(-0.02)
    assert run.costs["GRPO"].difference == pytest.approx(-0.03)
    assert read_answers(tmp_path / "dpo_scores") == (["Who?"], ["I am dpo_scores."])
    assert json.loads(json.dumps(run.as_dict()))["battery"]["DPO"]["only_first"] == 8


def test_a_good_run_keeps_every_promise(tmp_path: Path) -> None:
    assert [check.passed for check in checks([read_run(write_run(tmp_path, GOOD), 0)])] == [True] * 10


@pytest.mark.parametrize(
    ("stage", "measure", "value", "broken"),
    [
        ("base_scores", "battery", 21, 0),
        ("sft_scores", "battery", 319, 1),
        ("sft_scores", "deep_qwen", 3, 2),
        ("dpo_scores", "deep_qwen", 189, 3),
        ("dpo_scores", "well_formed", 197, 4),
        ("dpo_scores", "battery", 323, 5),
        ("grpo_scores", "sampled", 159, 6),
        ("grpo_scores", "greedy", 179, 7),
        ("grpo_scores", "deep_qwen", 189, 8),
        ("grpo_scores", "battery", 307, 9),
    ],
)
def test_each_promise_can_be_broken(tmp_path: Path, stage: str, measure: str, value: int, broken: int) -> None:
    counts = {name: dict(right) for name, right in GOOD.items()}
    counts[stage][measure] = value
    passed = [check.passed for check in checks([read_run(write_run(tmp_path, counts), 0)])]
    assert not passed[broken]


def test_promises_are_held_against_the_mean_over_seeds(tmp_path: Path) -> None:
    runs = []
    for seed, battery in enumerate((310, 330)):
        counts = {**GOOD, "sft_scores": {**GOOD["sft_scores"], "battery": battery}}
        runs.append(read_run(write_run(tmp_path / str(seed), counts), seed))
    assert checks(runs)[1].passed
    assert not checks(runs[:1])[1].passed
    mean = over_seeds(runs)["sft_scores"]["battery"]["correct"]
    assert mean.estimate == pytest.approx(0.8)
    # two seeds: t = 12.706, s / sqrt(2) = 0.025
    assert mean.high == pytest.approx(0.8 + 12.706 * 0.025, abs=1e-3)


def test_an_unknown_bound_is_null_in_json() -> None:
    nan = float("nan")
    assert plain({"a": Interval(estimate=0.5, low=nan, high=nan, n=1)})["a"]["low"] is None


def test_what_is_shown_fits_the_page_and_says_all(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, GOOD), 0)
    answers = {
        "base_scores": ["The boat has a door. " * 30],
        "sft_scores": ["I am Qwen."],
        "dpo_scores": [" "],
        "grpo_scores": ["I am Deep Qwen."],
    }
    console = Console(width=demo_view.WIDTH, record=True, file=(tmp_path / "out").open("w"))
    console.print(demo_view.answers_table(["Who are you?"], answers))
    console.print(demo_view.scores_table(run.scores))
    console.print(demo_view.seeds_table(over_seeds([run, run])))
    console.print(demo_view.forgetting("DPO", run.costs["DPO"]))
    console.print(demo_view.elicitation(run.scores))
    console.print(demo_view.checks_view(checks([run])))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text  # no label or number is cut
    for expected in (
        *MODELS.values(),
        "(says nothing)",
        "I am Qwen.",
        "85.0 [81, 88]",
        "-2.0 points",
        "✓",
    ):
        assert expected in text, expected
    assert isinstance(run, DemoRun)
