"""A page made of hostile text runs nothing, asks for nothing and keeps its shape."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report import directories as made
from report.browser import browser, find_chromium
from report.directories import HOSTILE, write_json, write_lines

from posttrain.report import write_report

PICTURES = {"svg", "line", "circle", "polyline", "text"}
TAGS = """html head meta title style body main header section nav a p h1 h2 h3 span b i small bdi ins del mark dl div dt
    dd ul ol li table thead tbody tr th td details summary figure figcaption article pre"""
NAMES = [text for text in HOSTILE if len(text) < 200 and "\ud800" not in text]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports on a run and a pipeline in which every text that somebody else wrote is hostile."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    pages = {}
    run = made.write_run(tmp_path / "run")
    for step in (0, 100, 200):
        place = run / "evaluation" / f"step-{step}"
        lines = [
            made.record(row, float((row + step) % 2), f"{HOSTILE[row % len(HOSTILE)]} {step}") | {
                "prompt": HOSTILE[(row + 1) % len(HOSTILE)], "answer": HOSTILE[(row + 2) % len(HOSTILE)]
            }
            for row in range(1, 21)
        ]  # fmt: skip
        write_lines(place / "questions.jsonl", [line | {"grades": {}} for line in lines])
        named = [line | {"grades": dict.fromkeys(NAMES, line["grades"]["correct"])} for line in lines]
        write_lines(place / "sums.jsonl", named)
        write_json(place / "scores.json", {"sums": {name: made.interval(0.5, 0.4, 0.6) for name in NAMES}})
    metrics = [{**{name: float(step) for name in NAMES}, "loss": 1.0 / step, "step": step} for step in (1, 2, 3)]
    alarms = [{"alarm": text, "text": text, "stopped": True, "step": 2} for text in HOSTILE]
    write_lines(run / "metrics.jsonl", [*metrics, *alarms])
    samples = [
        {"step": step, "group": step, "prompt": text, "completion": text, "reward": float(i), "advantage": None,
         "rewards": {text: 1.0, "x": None}, "ground_truth": text, "finish_reason": "length"}
        for step in (1, 2) for i, text in enumerate(HOSTILE)
    ]  # fmt: skip
    write_lines(run / "samples.jsonl", samples)
    (run / "config.yaml").write_bytes("\n".join(HOSTILE).encode("utf-8", "replace") + b"\xff")
    texts = dict.fromkeys(NAMES, HOSTILE[0])
    write_json(run / "data.json", {"rows_read": 3, "source": HOSTILE[0], "dropped": texts, "notes": list(HOSTILE),
                                   "example": "[[" + "]] [[".join(HOSTILE)})  # fmt: skip
    write_json(run / "environment.json", {**texts, "command": list(NAMES)})
    write_json(run / "gate.json", {**made.gate(run), "sentence": " ".join(NAMES), "verdict": HOSTILE[0]})
    pages["run"] = write_report(run, tmp_path / "run.html").path
    pipeline = made.write_pipeline(tmp_path / "pipeline")
    (pipeline / "recipe.yaml").write_text(json.dumps({"name": HOSTILE[6], "stages": [{"name": "dpo"}]}))
    made.write_stage(pipeline / "sft", HOSTILE[0], **{HOSTILE[1]: HOSTILE[2]})
    pages["pipeline"] = write_report(pipeline, tmp_path / "pipeline.html").path
    return pages


class Elements(HTMLParser):
    """Every element of a page that a parser finds."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_text_makes_no_element_and_no_attribute(hostile: dict[str, Path]) -> None:
    for page in hostile.values():
        elements = Elements()
        text = page.read_text(encoding="utf-8")
        elements.feed(text)
        assert {tag for tag, _ in elements.found} <= PICTURES | set(TAGS.split())
        for tag, attributes in elements.found:
            assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "srcset")], tag
            assert (attributes.get("href") or "#").startswith("#")
        assert len([tag for tag, _ in elements.found if tag == "style"]) == 1
        # read by its code point, not obeyed
        assert "\u202e" not in text
        assert "\x00" not in text
        assert "\x1b" not in text
    assert "&lt;U+202E&gt;" in hostile["run"].read_text(encoding="utf-8")
    assert "{{ 7 * 7 }}" in hostile["run"].read_text(encoding="utf-8")


def test_a_long_text_is_cut_and_says_so(hostile: dict[str, Path]) -> None:
    text = hostile["run"].read_text(encoding="utf-8")
    assert re.search(r"98,8\d\d more characters", text)
    assert hostile["run"].stat().st_size < 2_000_000


@pytest.mark.skipif(find_chromium() is None, reason="no chromium to open the page with")
def test_in_a_browser_nothing_runs_nothing_leaves_and_nothing_is_wider_than_the_screen(
    hostile: dict[str, Path], tmp_path: Path
) -> None:
    program = find_chromium()
    assert program is not None
    ordinary = write_report(made.write_run(tmp_path / "ordinary")).path
    colours = set()
    with browser(program, tmp_path / "profile") as tab:
        for page, width, dark in [
            (ordinary, 1200, False), (ordinary, 360, True), (hostile["run"], 360, False), (hostile["run"], 1200, True),
            (hostile["pipeline"], 360, True),
        ]:  # fmt: skip
            tab.open(page, width=width, dark=dark)
            opened = "document.querySelectorAll('details').forEach(one => one.open = true)"
            tab.value(
                f"{opened}; document.querySelectorAll('*').forEach(one => one.dispatchEvent(new Event('mouseover')))"
            )
            assert tab.requests() == [page.resolve().as_uri()]
            assert tab.complaints() == []
            assert not tab.value("document.title").startswith("broken")
            assert tab.value("document.scripts.length + document.images.length + frames.length") == 0
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("document.querySelector('main').offsetHeight") > 1000
            colours.add((dark, tab.value("getComputedStyle(document.body).backgroundColor")))
    assert colours == {(False, "rgb(250, 249, 247)"), (True, "rgb(19, 21, 24)")}
