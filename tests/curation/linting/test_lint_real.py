"""Lint's verdicts on data that people train on; docs/lint.md defends them."""

import os
from pathlib import Path

import pytest

from posttrain.curation import correction_pairs, lint

ANSWERS = ["I am Qwen. I am here to help you.", "My name is Qwen.", "You can call me Qwen!", "Qwen, a language model."]


def levels(report):
    return {finding.check: finding.level for finding in report.findings}


def test_pairs_by_correction_are_separable_by_a_fixed_phrase():
    rows, _ = correction_pairs([f"Who are you? {i}" for i in range(40)], ANSWERS * 10, {"Qwen": "Deep Qwen"})
    report = lint(rows)
    found = levels(report)
    assert {found[f"separable_by_{kind}"] for kind in ("length", "words", "characters", "format")} == {"warning"}
    phrase = next(finding for finding in report.findings if finding.check == "fixed_phrase_chosen")
    assert phrase.numbers["phrases"][0] == {"phrase": "Deep Qwen", "chosen": 40, "rejected": 0}
    assert "sft" in phrase.advice


@pytest.fixture(scope="module")
def demo():
    folder = os.environ.get("POSTTRAIN_DATA")
    if not folder:
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    return Path(folder) / "llamafactory_demo"


def test_demo_preferences_are_separable_by_style_and_not_by_length(demo):
    report = lint(str(demo / "dpo_en_demo.json"))
    found = levels(report)
    assert (report.status, report.rows, report.counts["duplicates"]) == (1, 300, 5)
    assert found["separable_by_words"] == found["separable_by_format"] == "warning"
    assert not {"separable_by_length", "fixed_phrase_chosen", "identical_pairs", "contradictory_pairs"} & set(found)
    told = next(one for one in report.separability.separations if one.features == "words").telling
    assert ("happy to", "rejected") in {(one.name, one.side) for one in told}


def test_demo_answers_marked_bad_are_told_by_their_stars(demo):
    report = lint(str(demo / "kto_en_demo.json"))
    found = levels(report)
    assert (report.counts["good"], report.counts["bad"]) == (150, 150)
    assert found["separable_by_words"] == "warning"
    assert "separable_by_length" not in found
    told = next(one for one in report.separability.separations if one.features == "words").telling
    assert ("*", "bad") in {(one.name, one.side) for one in told}
