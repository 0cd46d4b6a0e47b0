"""The verdict in one sentence: the gate's, that of the paired comparisons, or that of the log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report.directories import write_evaluation, write_lines, write_pipeline, write_run

from posttrain.report.changes import changes
from posttrain.report.evaluations import Evaluation
from posttrain.report.subject import find_subject
from posttrain.report.verdict import compared, verdict


def judged(path: Path):
    subject = find_subject(path)
    return verdict(subject, compared(subject))


def test_the_gate_has_the_word(tmp_path):
    found = judged(write_run(tmp_path / "run"))
    assert found.sentence.startswith("Step 100 is promoted: ")
    assert (found.title, found.tone, found.notes) == ("An earlier checkpoint promoted", "mixed", ())


def test_without_a_gate_the_stages_are_compared_and_a_cost_on_the_way_is_named(tmp_path):
    found = judged(write_pipeline(tmp_path / "pipeline"))
    # sums: 0 of 100, then 70, then 72. facts: 80, 80, then 10 lost and 1 more lost: 11 points.
    assert found.sentence.startswith("From base to dpo 72.0 points on sums (")
    assert "were gained, and no other task gained for sure; dpo cost 11.0 points on facts (" in found.sentence
    assert found.tone == "mixed"
    assert "no gate" in found.notes[0]


def test_a_change_that_may_be_chance_is_no_loss(tmp_path):
    right = {"base": {"sums": [False] * 50 + [True] * 50}, "sft": {"sums": [True] + [False] * 52 + [True] * 47}}
    found = judged(write_pipeline(tmp_path / "pipeline", right))
    assert found.sentence == "From base to sft no task gained for sure, and nothing was lost for sure."
    assert found.tone == "open"


def test_losses_that_are_sure_only_together_are_named(tmp_path):
    # four of two hundred are lost each time: p = 0.125, and 0.0078 together
    facts = {name: {"facts": [i >= lost for i in range(200)]} for name, lost in (("base", 0), ("sft", 4), ("dpo", 8))}
    found = judged(write_pipeline(tmp_path / "pipeline", facts))
    assert found.sentence.startswith("From base to dpo no task gained for sure; from base to dpo 4.0 points on facts (")
    assert found.sentence.endswith(") were lost.")
    assert found.tone == "bad"


def test_models_that_started_from_the_same_one_are_compared_with_it(tmp_path):
    right = {
        "base": {"a": [False] * 40}, "sft": {"a": [True] * 20 + [False] * 20}, "good": {"a": [True] * 40},
        "fair": {"a": [True] * 36 + [False] * 4},
    }  # fmt: skip
    path = write_pipeline(tmp_path / "pipeline", right)
    for name, start in (("sft", "base"), ("good", "sft"), ("fair", "sft")):
        for stage, inputs in ((f"{start}_scores", {"model": start}), (f"{name}_scores", {"drift_from": start})):
            record = json.loads((path / stage / "stage.json").read_text())
            record["key"]["inputs"] |= inputs
            (path / stage / "stage.json").write_text(json.dumps(record))
    found = compared(find_subject(path))
    pairs = [("base", "sft", False), ("sft", "good", False), ("sft", "fair", False), ("base", "fair", True)]
    assert [(one.before.label, one.after.label, one.over_stages) for one in found] == pairs
    assert judged(path).sentence.endswith("; nothing was lost for sure.")  # four fewer than another branch is no loss


def test_gains_alone_are_good(tmp_path):
    right = {"base": {"a": [False] * 40, "b": [False] * 40}, "sft": {"a": [True] * 40, "b": [True] * 20 + [False] * 20}}
    found = judged(write_pipeline(tmp_path / "pipeline", right))
    assert found.sentence.startswith("From base to sft all 2 tasks gained, most of all 100.0 points on a (")
    assert found.sentence.endswith("; nothing was lost for sure.")
    assert found.tone == "good"


def test_without_evaluations_the_log_speaks_and_nothing_is_claimed(tmp_path):
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "evaluation")
    (run / "gate.json").unlink()
    found = judged(run)
    assert found.sentence == "In run the mean reward went from 0.237 to 0.688 over 200 steps."
    assert "cannot say whether the model became better" in found.notes[-1]


def test_a_run_that_was_stopped_is_said_to_be(tmp_path):
    write_lines(tmp_path / "run" / "metrics.jsonl", [{"loss": 1.0, "step": 10}, {"loss": 0.5, "step": 20}])
    assert judged(tmp_path / "run").notes[0] == "run has not finished, or was stopped: its log ends at step 20."


def test_the_promoted_checkpoint_and_the_last_are_compared_with_the_start(tmp_path):
    subject = find_subject(write_run(tmp_path / "run"))
    pairs = [(one.before.label, one.after.label) for one in compared(subject)]
    assert pairs == [("start", "step 100"), ("start", "step 200")]


def test_changes_are_paired_over_questions_and_samples(tmp_path):
    for name, grades in (("one", [[1, 1], [0, 0], [1, 0]]), ("two", [[1, 0], [0, 1], [1, 0]])):
        lines = [
            {"row": row, "sample": sample, "prompt": f"{row}", "completion": "", "grades": {"g": float(grade)}}
            for row, samples in enumerate(grades, start=1) for sample, grade in enumerate(samples, start=1)
        ]  # fmt: skip
        write_lines(tmp_path / name / "t.jsonl", lines)
    (change,) = changes(*(Evaluation(label=name, directory=tmp_path / name) for name in ("one", "two")))
    assert change.difference.n == 3
    assert change.difference.estimate == pytest.approx(0.0)  # -1/2, +1/2, 0 over three questions
    assert (change.gained, change.lost) == ((2,), (1,))
    assert change.before.estimate == pytest.approx(0.5)


def test_other_questions_are_not_paired(tmp_path):
    for name in ("one", "two"):
        write_evaluation(tmp_path / name, {"sums": [True, False]})
    text = (tmp_path / "two" / "sums.jsonl").read_text().replace("What is 2", "What was 2")
    (tmp_path / "two" / "sums.jsonl").write_text(text)
    (change,) = changes(*(Evaluation(label=name, directory=tmp_path / name) for name in ("one", "two")))
    assert change.difference is None
    assert change.surely is None


def test_texts_are_compared_by_bits_per_byte_of_which_less_is_better(tmp_path):
    for name, nats in (("one", 100.0), ("two", 80.0)):
        scores = {
            grader: {"estimate": nats / 40, "low": nats / 41, "high": nats / 39, "n": 3}
            for grader in ("word_perplexity", "bits_per_byte")
        }
        write_lines(
            tmp_path / name / "text.jsonl",
            [
                {"row": row, "sample": 1, "prompt": "", "completion": "", "grades": {},
                 "measures": {"loglikelihood": -nats - row, "bytes": 40, "words": 8}}
                for row in (1, 2, 3)
            ],
        )  # fmt: skip
        (tmp_path / name / "scores.json").write_text(json.dumps({"text": scores}))
    word, bits = changes(*(Evaluation(label=name, directory=tmp_path / name) for name in ("one", "two")))
    assert (word.headline, bits.headline) == (False, True)
    assert word.difference is None
    assert word.surely is None
    # 20 nats less in each of 3 texts of 40 bytes: -0.5 nats a byte, over ln 2
    assert bits.difference.estimate == pytest.approx(-0.5 / 0.6931472)
    assert bits.surely == "gain"


def test_what_compare_wrote_is_judged_by_its_gate_or_its_changes(tmp_path):
    for side, right in (("before", 20), ("after", 35)):
        write_evaluation(tmp_path / "c" / side, {"sums": [i < right for i in range(40)]}, drift=0.1)
    (tmp_path / "c" / "comparison.json").write_text(json.dumps({"before": "BASE", "after": "TUNED", "gate": None}))
    assert judged(tmp_path / "c").sentence.startswith("From before to after 37.5 points on sums (")
    gate = {"sentence": "TUNED does not pass.", "verdict": "none", "checkpoints": []}
    (tmp_path / "c" / "comparison.json").write_text(json.dumps({"before": "BASE", "after": "TUNED", "gate": gate}))
    assert judged(tmp_path / "c").tone == "bad"
    alone = judged(tmp_path / "c" / "after")
    assert alone.sentence == "87.5% on sums; there is nothing to compare with."
