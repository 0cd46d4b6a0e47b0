"""Tokens are shaded by their advantages and values, and whatever they say stays text."""

import re

from report.directories import HOSTILE, write_lines, write_run

from posttrain.report import write_report
from posttrain.report.tokens import shaded


def test_shades_by_hand():
    """Advantages in deviations: a shade at 0.5, at 1 and at 2. Values in the range of the completion."""
    line = {
        "tokens": ["a", "b", "c", "d", "e"], "advantages": [0.4, 0.5, 1.9, -2.0, -1.0],
        "values": [0.0, 0.1, 0.2, 0.3, 0.1],
    }  # fmt: skip
    advantage, value = shaded(line)
    assert [token.shade for token in advantage.tokens] == ["", "up-1", "up-2", "down-3", "down-2"]
    assert [token.shade for token in value.tokens] == ["", "up-1", "up-2", "up-3", "up-1"]
    assert advantage.tokens[3].note == "advantage -2.00"


def test_numbers_that_do_not_fit_are_not_drawn():
    assert shaded({"completion": "a"}) == ()
    assert shaded({"tokens": ["a"], "advantages": [1.0, 2.0], "values": ["x"]}) == ()
    assert shaded({"tokens": ["a"], "advantages": [float("nan")]}) == ()
    assert [token.shade for token in shaded({"tokens": ["a", "b"], "values": [0.3, 0.3]})[0].tokens] == ["", ""]
    long = shaded({"tokens": ["a"] * 1000, "advantages": [1.0] * 1000})[0]
    assert len(long.tokens) + long.left_out == 1000


def test_the_report_draws_them_and_nothing_runs(tmp_path):
    run = write_run(tmp_path / "run")
    texts = [text for text in HOSTILE if len(text) < 200]
    write_lines(
        run / "samples.jsonl",
        [
            {
                "step": 1, "group": 0, "prompt": "p", "completion": "c", "reward": float(i), "advantage": 0.1,
                "tokens": texts, "advantages": [2.5 - i] * len(texts), "values": list(range(len(texts))),
            }
            for i in range(2)
        ],
    )  # fmt: skip
    page = write_report(run).path.read_text(encoding="utf-8")
    assert page.count('class="token up-3" title="advantage 2.50"') == len(texts)
    assert "<script" not in page
    assert not re.search(r"<(img|iframe|svg onload)", page)
    assert "green was better than the value model expected" in page
