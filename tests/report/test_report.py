"""The page: what stands in it, what is left out and said to be, and that nothing half-written stops it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from report.directories import write_json, write_lines, write_pipeline, write_run, write_stage

from posttrain.cli.main import main
from posttrain.errors import DataError
from posttrain.report import write_report

STYLE = Path(__file__).parents[2] / "posttrain" / "report" / "style.css"


def text_of(path: Path) -> str:
    """The words of a page, as a reader finds them."""
    page = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


def sections(path: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)"', path.read_text(encoding="utf-8"))


def test_a_whole_run_has_every_section_and_lacks_nothing(tmp_path):
    page = write_report(write_run(tmp_path / "run")).path
    assert page == tmp_path / "run" / "report.html"
    assert sections(page) == [
        "scores", "changes", "gate", "drift", "curves", "answers", "flips", "samples", "data", "alarms", "settings",
        "again",
    ]  # fmt: skip
    text = text_of(page)
    for words in (
        "Step 100 is promoted", "+30.0", "60 better, 0 worse", "✗ facts: −20.0 (at worst −22.0), allowed −5.0; "
        "200 questions are too few, about 400 would show it", "1.25 → 0.75", "12 → 15.5", "Reward",
        "It is 0 . step 100 right It is", "1,190", "10 longer than max_length: line 3, line 8",
        "entropy 2 times, steps 180 to 190", "python 3.12.1", "posttrain grpo --model 'my model'",
        "rewards/brief/mean 0.5",
    ):  # fmt: skip
        assert words in text, words


def test_a_pipeline_shows_its_stages_in_the_recipes_order(tmp_path):
    page = write_report(write_pipeline(tmp_path / "pipeline"), tmp_path / "deep" / "page.html").path
    assert page == tmp_path / "deep" / "page.html"
    text = text_of(page)
    assert "base → sft" in text
    assert "sft → dpo" in text
    order = [text.index(f" {name} {method} finished") for name, method in (
        ("base_scores", "evaluate"), ("sft", "sft"), ("sft_scores", "evaluate"), ("dpo", "dpo"))]  # fmt: skip
    assert order == sorted(order)
    assert "How far chosen and rejected answers are apart" in text
    assert "posttrain run" in text


def test_checkpoints_of_a_stage_are_shown_below_the_stages(tmp_path):
    pipeline = write_pipeline(tmp_path / "pipeline")
    write_run(pipeline / "grpo")
    write_stage(pipeline / "grpo", "grpo")
    text = text_of(write_report(pipeline).path)
    assert "Checkpoints of grpo" in text
    assert "Step 100 is promoted" in text  # its gate is the pipeline's


@pytest.mark.parametrize("order", [["sft", "base_scores", "dpo", "sft_scores", "dpo_scores"]])
def test_without_a_recipe_stages_stand_as_they_were_written(tmp_path, order):
    pipeline = write_pipeline(tmp_path / "pipeline")
    (pipeline / "recipe.yaml").unlink()
    for second, name in enumerate(order):
        os.utime(pipeline / name / "stage.json", (second, second))
    (pipeline / "sft.old-1").mkdir()
    shutil.copy(pipeline / "sft" / "stage.json", pipeline / "sft.old-1")
    text = text_of(write_report(pipeline).path)
    places = [text.index(f" {name} {'evaluate' if 'scores' in name else name} finished") for name in order]
    assert places == sorted(places)
    assert "old-1" not in text


def test_what_is_not_there_is_left_out_and_said_how_to_get(tmp_path):
    write_lines(tmp_path / "run" / "metrics.jsonl", [{"loss": 1.0, "step": 10}, {"loss": 0.5, "step": 20}])
    page = write_report(tmp_path / "run").path
    assert sections(page) == ["curves", "alarms", "missing"]
    text = text_of(page)
    for words in (
        "The gate's decision: name targets",
        "Scores: evaluate",
        "Drift: drift_from",
        "The settings: config.yaml",
    ):
        assert words in text, words
    assert "None sounded" in text


@pytest.mark.parametrize("make", [write_run, write_pipeline])
def test_a_run_cut_off_anywhere_can_be_reported(tmp_path, make):
    whole = make(tmp_path / "whole")
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    rng = random.Random(0)
    for trial in range(6):
        broken = tmp_path / str(trial)
        shutil.copytree(whole, broken)
        for path in rng.sample(files, len(files) // 2):
            there = broken / path.relative_to(whole)
            if there.name == "stage.json" or (there.name == "metrics.jsonl" and make is write_run):
                there.write_bytes(there.read_bytes()[: rng.randrange(1, 400)])
            elif rng.random() < 0.3:
                there.unlink()
            else:
                content = there.read_bytes()
                there.write_bytes(content[: rng.randrange(len(content))])
        assert write_report(broken).bytes > 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gate.json", {"sentence": "", "checkpoints": [1, {"targets": 3, "kl": "", "max_kl": 1, "retention": [{}]}]}),
        ("gate.json", {"sentence": "x", "promoted": 7, "checkpoints": 3}),
        ("data.json", [{"rows_read": None, "dropped": {"x": 3}, "lengths": [1]}, 3, {"train": {"a": [1, None]}}]),
        ("environment.json", {"a": {"b": {"c": [1, 2.5, None, True]}}, "seconds": "soon", "command": [1]}),
        ("evaluation/step-0/scores.json", {"sums": {"correct": None}, "facts": 3, "x": {}}),
        ("evaluation/step-100/scores.json", []),
        ("evaluation/step-100/drift.json", {"prompts": {"kl_forward": {"estimate": None}, "kl_reverse": 3}, "x": []}),
    ],
)  # fmt: skip
def test_files_of_another_shape_do_not_stop_it(tmp_path, name, value):
    run = write_run(tmp_path / "run")
    write_json(run / name, value)
    assert write_report(run).bytes > 10_000


def test_lines_of_another_shape_do_not_stop_it(tmp_path):
    run = write_run(tmp_path / "run")
    odd = [
        {"alarm": ""}, {"step": "", "loss": 1}, {"step": 1, "loss": [1]}, {"step": 10**400, "loss": 1}, {"reward": {}},
        {"completion": None, "group": 1, "step": None}, {"completion": 3, "group": 2, "prompt": [3], "rewards": 3},
        {"row": 1, "grades": {}, "completion": None}, {"row": 1, "grades": {"correct": "x"}, "completion": ["x"]},
        {"row": 2, "sample": "x", "grades": {"correct": 2.0}, "completion": {}, "prompt": [{"content": None}]},
    ]  # fmt: skip
    for name in ("metrics.jsonl", "samples.jsonl", "evaluation/step-0/sums.jsonl", "evaluation/step-100/sums.jsonl"):
        with (run / name).open("a") as file:
            file.write("\n".join(map(json.dumps, odd)) + "\n[1]\n3\nnull\n{broken\n")
    assert write_report(run).bytes > 10_000


def test_a_directory_that_is_no_run_is_refused_with_what_is_there(tmp_path):
    write_run(tmp_path / "runs" / "one")
    with pytest.raises(DataError, match=r"does not exist.*did you mean 'runs'"):
        write_report(tmp_path / "run")
    with pytest.raises(DataError, match="is a file"):
        write_report(tmp_path / "runs" / "one" / "config.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a run"):
        write_report(tmp_path / "empty")
    assert write_report(tmp_path / "runs").path.parent == tmp_path / "runs" / "one"  # the only one there
    write_run(tmp_path / "runs" / "two")
    with pytest.raises(DataError, match="holds 2 runs; name one of them"):
        write_report(tmp_path / "runs")


def test_a_page_that_cannot_be_written_is_said_to_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written to .*--output"):
        write_report(write_run(tmp_path / "run"), tmp_path / "file" / "page.html")


def test_two_reports_on_one_run_are_the_same(tmp_path):
    run = write_run(tmp_path / "run")
    assert write_report(run, tmp_path / "a").path.read_bytes() == write_report(run, tmp_path / "b").path.read_bytes()


def test_a_large_file_of_samples_is_read_at_its_ends_and_middle(tmp_path, monkeypatch):
    from posttrain.report import samples

    monkeypatch.setattr(samples, "_WINDOW", 2000)
    lines = [
        {"step": step, "group": step, "prompt": "p", "completion": "c", "reward": 1.0, "advantage": 0.0}
        for step in range(1, 1001)
    ]
    write_lines(tmp_path / "samples.jsonl", lines)
    steps = [group.step for group in samples.groups(tmp_path / "samples.jsonl")]
    assert steps[0] == 1
    assert 400 < steps[1] < 600
    assert steps[-1] == 1000


def test_the_command_says_where_the_report_is_and_how_large(tmp_path, capsys, monkeypatch):
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run = write_run(tmp_path / "run")
    assert main(["report", str(run), "--output", str(tmp_path / "page.html"), "--open"]) == 0
    assert re.search(rf"report: {tmp_path}/page.html \(\d+ kB\)", capsys.readouterr().out)
    assert opened == [(tmp_path / "page.html").as_uri()]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--outptu", "x"], "did you mean '--output'"), (["a", "b"], "one at a time"), (["--open"], "which run"),
     (["a", "--output"], "needs a file"), (["nowhere"], "does not exist")],
)  # fmt: skip
def test_a_wrong_command_line_is_refused(words, message, capsys):
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_help_has_an_example_and_a_report_needs_no_torch(tmp_path, capsys):
    assert main(["report", "--help"]) == 0
    assert "Example:" in capsys.readouterr().out
    code = f"import sys; from posttrain.report import write_report; write_report({str(write_run(tmp_path / 'run'))!r})"
    subprocess.run([sys.executable, "-c", f"{code}; assert not {{'torch', 'pydantic'}} & set(sys.modules)"], check=True)


def test_colours_can_be_read_in_both_schemes():
    """WCAG AA: 4.5 to 1 for text on what it stands on."""
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in STYLE.read_text().split("@media")[:2])
    backs = {
        "ink": ["page", "card", "faint", "accent-soft", "loss-soft"], "quiet": ["page", "card", "faint"],
        "accent": ["page", "card", "accent-soft"], "loss": ["page", "card", "loss-soft"],
    }  # fmt: skip
    pairs = [(front, back) for front, behind in backs.items() for back in behind]
    for scheme in (light, dark):
        for front, back in pairs:
            assert contrast(scheme[front], scheme[back]) >= 4.5, (front, back)


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
