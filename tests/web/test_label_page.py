"""The page in a headless Chromium, its keys pressed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from label_server import Server, served
from report.browser import Browser, browser, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no chromium to open the page with")

HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>\u202ereversed"
ROWS = [
    {"prompt": f"Question {n}", "answers": [{"text": f"good {n}", "model": "A"}, {"text": f"bad {n}", "model": "B"}]}
    for n in range(4)
]
ROWS[0]["prompt"] = [{"role": "system", "content": HOSTILE}, {"role": "user", "content": "Question 0"}]


@dataclass
class Page:
    """The page, and what lies on the disk behind it."""

    tab: Browser
    server: Server
    output: Path

    def records(self) -> list[dict[str, Any]]:
        text = (self.output.parent / f"{self.output.name}.judgements.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def until(self, script: str, wanted: Any = True) -> None:
        """Waits until the expression has the value."""
        ends = time.monotonic() + 15
        while (found := self.tab.value(script)) != wanted:
            assert time.monotonic() < ends, f"{script} is {found!r}, not {wanted!r}: {self.tab.complaints()}"
            time.sleep(0.02)

    def count(self, text: str) -> None:
        self.until("document.getElementById('count').textContent", text)

    def answers(self) -> list[str]:
        return list(self.tab.value("[...document.querySelectorAll('.answer')].map(one => one.lastChild.textContent)"))

    def said(self, text: str) -> None:
        self.until(f"document.getElementById('said').textContent.includes({text!r})")

    def click(self, id: str) -> None:
        self.tab.value(f"document.getElementById({id!r}).click()")


@contextmanager
def opened(directory: Path, rows: list[Any], *arguments: str, **how: Any) -> Iterator[Page]:
    source, output = directory / "in.jsonl", directory / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    program = find_chromium()
    assert program is not None
    with (
        served(source, "--output", output, *arguments) as server,
        browser(program, directory / "profile") as tab,
    ):
        tab.open(server.address, **how)
        yield Page(tab=tab, server=server, output=output)


def test_a_session_with_keys(tmp_path: Path) -> None:
    with opened(tmp_path, ROWS) as page:
        tab = page.tab
        # who judges
        page.until("document.activeElement.id", "annotator")
        assert "token" not in tab.value("location.href")
        tab.value("document.getElementById('annotator').value = 'ana'")
        tab.press("Enter", code=13, text="\r")
        page.count("1 of 4")
        assert tab.value("location.search") == "?annotator=ana"

        # what a model or a file says is text
        assert "<script>" in tab.value("document.getElementById('prompt').textContent")
        assert "<U+202E>" in tab.value("document.getElementById('prompt').textContent")
        assert tab.value("document.title") == "Which answer is better?"
        assert tab.value("document.images.length") == 0

        # left and right
        left, right = page.answers()
        assert {left, right} == {"good 0", "bad 0"}
        tab.press("ArrowRight", code=39)
        page.count("2 of 4")
        page.said("You preferred answer 2")
        second = page.answers()
        tab.press("1")
        page.count("3 of 4")
        # undo, and the same question again in the same order
        tab.press("u")
        page.count("2 of 4")
        assert page.answers() == second
        tab.press("2")
        page.count("3 of 4")
        # what is no judgement: other keys, keys for the browser, a key that is held down
        for key, modifiers in (("3", 0), ("x", 0), ("s", 2), ("1", 4), ("2", 1)):
            tab.press(key, modifiers=modifiers)
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="1", text="1", autoRepeat=True)
        tab.press("t")
        page.count("4 of 4")
        tab.press("s")
        page.until("document.getElementById('over').hidden", False)
        assert tab.value("document.getElementById('over-counts').textContent").startswith(
            "4 questions, of which 1 tied and 1 skipped"
        )
        verdicts = [record["verdict"] for record in page.records()]
        assert verdicts == ["prefer", "prefer", "undo", "prefer", "tie", "skip"]

        # the end can be undone too, what was skipped comes again, and the rows are written from the page
        tab.press("u")
        page.count("4 of 4")
        page.until("document.getElementById('over').hidden", True)
        last = page.answers()
        tab.press("s")
        page.until("document.getElementById('over').hidden", False)
        page.click("again")
        page.until("document.getElementById('over').hidden", True)
        assert page.answers() == last
        assert [record["verdict"] for record in page.records()][6:] == ["undo", "skip", "undo"]
        page.click("export")
        page.said("2 pairs of 2 questions (1 tied, 1 waiting)")
        written = [json.loads(line) for line in page.output.read_text().splitlines()]
        assert [row["chosen"][0]["content"] for row in written] == [right, second[1]]
        assert not [one for one in tab.complaints() if "error" in one.lower()]
        assert {url.split("/")[2] for url in tab.requests() if not url.startswith("data:")} == {
            page.server.address.split("/")[2]
        }


def test_an_answer_is_edited(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "answers": ["one", "two", "three"]}, {"prompt": "R", "answers": ["1", "2"]}]
    with opened(tmp_path, rows, "--annotator", "ana") as page:
        tab = page.tab
        page.count("1 of 2")
        shown = page.answers()
        tab.press("ArrowLeft", code=37)  # there are three answers, and no left one
        tab.press("e")
        tab.press("Escape", code=27)
        tab.press("e")
        page.said("Which answer do you edit?")
        tab.press("3")
        page.until("document.activeElement.tagName", "TEXTAREA")
        assert tab.value("document.activeElement.value") == shown[2]
        for key in "1t ":  # typed, not judged
            tab.press(key)
        tab.press("Escape", code=27)
        page.until("document.querySelectorAll('textarea').length", 0)
        assert page.answers() == shown
        assert page.records() == []
        tab.press("e")
        tab.press("3")
        page.until("document.activeElement.tagName", "TEXTAREA")
        tab.call("Input.insertText", text="better: ")
        tab.press("Enter", code=13, modifiers=2)
        page.count("2 of 2")
        assert page.records()[0]["text"] == f"better: {shown[2]}"
        page.click("edit")
        tab.value("document.querySelector('.answer').click()")
        page.until("document.activeElement.tagName", "TEXTAREA")
        tab.value("document.activeElement.value = ' '")
        page.click("save")
        page.until("document.getElementById('problem-text').textContent", "the edited answer is empty")
        tab.value("document.querySelector('textarea').value = 'mended'")
        page.click("save")
        page.until("document.getElementById('over').hidden", False)
        assert [record["verdict"] for record in page.records()] == ["edit", "edit"]


def test_a_judgement_that_could_not_be_sent_is_not_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path, ROWS, "--annotator", "ana") as page:
        page.count("1 of 4")
        page.tab.call("Network.emulateNetworkConditions", offline=True, latency=0,
                      downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
        page.tab.press("1")
        page.until("document.getElementById('problem').hidden", False)
        page.tab.press("2")  # not while one waits
        page.tab.call("Network.emulateNetworkConditions", offline=False, latency=0,
                      downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
        page.click("retry")
        page.count("2 of 4")
        assert page.tab.value("document.getElementById('problem').hidden")
        (record,) = page.records()
        assert record["answer"] == record["order"][0]


def test_on_a_phone_and_in_the_dark_it_fits_and_is_judged_with_the_thumb(tmp_path: Path) -> None:
    long = "word " * 800 + "x" * 500
    rows = [{"prompt": long, "answers": [long, "short"]}, {"prompt": "Q", "answers": [f"a {n}" for n in range(9)]}]
    with opened(tmp_path, rows, "--annotator", "ana", width=360, height=740, dark=True) as page:
        tab = page.tab
        page.count("1 of 2")
        assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
        assert tab.value("document.documentElement.scrollWidth") <= 360
        inside = (
            "[...document.querySelectorAll('footer button')].filter(one => one.offsetParent).every(one => {"
            "const box = one.getBoundingClientRect();"
            "return box.top >= 0 && box.bottom <= innerHeight && box.left >= 0 && box.right <= 360"
            " && box.height >= 44})"
        )
        assert tab.value(inside)
        tab.value("document.querySelectorAll('#choices button')[1].click()")
        page.count("2 of 2")
        assert tab.value("document.querySelectorAll('#choices button').length") == 9
        assert tab.value("document.documentElement.scrollWidth") <= 360
        assert tab.value(inside)
        page.click("skip")
        page.until("document.getElementById('over').hidden", False)
        tab.open(page.server.address.split("?")[0] + "?annotator=ben", width=1200)
        page.count("1 of 2")
        columns = "new Set([...document.querySelectorAll('.answer')].map(one => one.getBoundingClientRect().top)).size"
        assert tab.value(columns) == 1  # side by side
        assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 247)"
