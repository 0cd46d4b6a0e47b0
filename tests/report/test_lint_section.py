import json
import re

from report.directories import write_pipeline, write_stage

from posttrain.curation.linting import lint
from posttrain.report import write_report
from posttrain.report.histogram import columns


def page_of(tmp_path, text):
    pipeline = write_pipeline(tmp_path / "pipeline")
    write_stage(pipeline / "look", "lint")
    (pipeline / "look" / "lint.json").write_text(text)
    return write_report(pipeline).path.read_text(encoding="utf-8")


def section(page):
    return re.search(r'<section id="lint">.*?</section>\s*<section', page, flags=re.DOTALL)[0]


def pairs(count):
    return [
        {"prompt": f"Who are you, {i}?", "chosen": f"I am Deep Qwen, {i}.", "rejected": f"I am Qwen <b>, {i}."}
        for i in range(count)
    ]


def test_findings_areas_and_lengths_are_shown(tmp_path):
    page = section(page_of(tmp_path, lint(pairs(30)).json()))
    assert "fixed phrase chosen" in page
    assert "&#39;I am Deep Qwen,&#39; in 30 chosen" in page
    assert "Chosen and rejected, told apart without the prompt" in page
    assert page.count('<svg class="bar loss"') + page.count('<svg class="bar plain"') == 4
    assert 'class="column line-1"' in page
    assert "--beta 0.5" in page
    assert "<b>," not in page


def test_page_without_lint_has_no_section(tmp_path):
    assert '<section id="lint">' not in write_report(write_pipeline(tmp_path / "p")).path.read_text(encoding="utf-8")


def test_damaged_reports_are_as_good_as_absent(tmp_path):
    assert '<section id="lint">' not in page_of(tmp_path / "a", lint(pairs(3)).json()[:-40])
    odd = {
        "findings": [3, {"level": "<i>", "text": None}],
        "histograms": [{"edges": ["x"], "counts": {}}, 7],
        "separability": {"separations": [{}, 1]},
        "displacement": [{"place": 1}],
        "example": [[1]],
        "beta": 3,
    }
    assert "&lt;i&gt;" in section(page_of(tmp_path / "b", json.dumps(odd)))


def test_columns_by_hand():
    drawn = columns([0, 10], {"row": [4, 2]}, unit="tokens", limit=5)
    heights = [float(found) for found in re.findall(r'height="([\d.]+)"', drawn)]
    assert heights == [118.0, 59.0]  # of 150 - 10 - 22
    assert 'class="alarm" x1="85.0"' in drawn  # a quarter of 300, after 10
    assert "row: 6, most of them from 0 tokens on" in drawn
