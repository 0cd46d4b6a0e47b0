"""A headless Chromium that opens a file and tells what it did. Speaks the DevTools protocol over a pipe.

    python tests/report/browser.py report.html picture.webp --width 390 --height 844 --dark --at answers

takes a picture of a page, as those in docs/images are.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    """The path of a Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@dataclass
class Browser:
    """One tab."""

    to: int
    back: int
    timeout_s: float = 30.0
    session: str = ""
    count: int = 0
    rest: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(self.timeout_s)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path | str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Opens the file or address and waits until it is there and at rest."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        ends = time.monotonic() + self.timeout_s
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next(ends - time.monotonic()))
        self.value("new Promise(done => setTimeout(() => done(1), 200))")  # what a page starts late

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    def press(self, key: str, *, code: int = 0, modifiers: int = 0, text: str = "") -> None:
        """A key goes down and up again; `modifiers` 1 is Alt, 2 Ctrl, 4 Meta, 8 Shift."""
        text = text or (key if len(key) == 1 and not modifiers else "")
        held = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code or ord(key[0].upper())}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **held)
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What stands in the console, dialogues that were opened and windows too."""
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.windowOpen",
                "Page.javascriptDialogOpening")  # fmt: skip
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in told]

    def picture(self, path: Path, *, at: str | None = None) -> None:
        """A picture of the part of the page that begins with the element of this id, as WebP."""
        if at is not None:
            self.value(f"document.getElementById({at!r}).scrollIntoView({{behavior: 'instant'}})")
        answer = self.call("Page.captureScreenshot", format="webp", quality=82)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _next(self, timeout_s: float) -> dict[str, Any]:
        ends = time.monotonic() + timeout_s
        while b"\0" not in self.rest:
            ready = select.select([self.back], [], [], max(0.0, ends - time.monotonic()))[0]
            assert ready, "the browser does not answer"
            more = os.read(self.back, 1 << 20)
            assert more, "the browser ended"
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(line))


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """A tab of a fresh browser whose profile lies in the directory."""
    ours_out, theirs_in = os.pipe()[::-1]
    ours_in, theirs_out = os.pipe()
    # Chromium reads commands from descriptor 3 and writes to 4; the shell puts the pipes there.
    start = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", start, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    tab = Browser(to=ours_out, back=ours_in)
    try:
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        yield tab
        tab.session = ""
        tab.call("Browser.close")
        process.wait(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours_out)
        os.close(ours_in)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Take a picture of a page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--at", help="the id of the section to begin with")
    given = parser.parse_args()
    program = find_chromium()
    if program is None:
        parser.error("no chromium is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(program, Path(profile)) as tab:
        tab.open(given.page, width=given.width, height=given.height, dark=given.dark)
        tab.picture(given.picture, at=given.at)


if __name__ == "__main__":
    _main()
