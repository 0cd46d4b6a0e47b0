"""Takes the pictures of the labelling page that docs/labelling.md shows.

python tests/web/pictures.py docs/images
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does

from report.browser import browser, find_chromium
from web.label_server import served

ROW = {
    "prompt": "My sourdough starter smells like nail polish remover. Is it dead?",
    "answers": [
        "No. The smell is acetone, which a hungry starter makes when it has run out of flour. Throw away all but a"
        " spoonful and feed it equal weights of flour and water, twice a day, at room temperature. After two or three"
        " days it should smell sour and fruity again and double between feedings.\n\nPink or orange streaks or fuzzy"
        " mould would be another matter: then throw it out.",
        "Yes, a starter that smells of nail polish remover has gone bad and should be thrown away. Begin a new one"
        " with whole grain flour and water, and feed it every day for a week before you bake with it.",
    ],
}
BEFORE, AFTER = 12, 27  # questions


def main(directory: Path) -> None:
    """Writes label-{desktop,phone}-{light,dark}.webp."""
    program = find_chromium()
    assert program is not None, "no chromium is installed"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        source = Path(name) / "candidates.jsonl"
        others = [{"prompt": f"Question {n}", "answers": ["one", "two"]} for n in range(BEFORE + AFTER)]
        rows = [*others[:BEFORE], ROW, *others[BEFORE:]]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with (
            served(source, "--output", Path(name) / "out.jsonl", "--annotator", "ana") as server,
            browser(program, Path(name) / "profile") as tab,
        ):
            tab.open(server.address)
            for number in range(BEFORE + 1):
                while not tab.value(f"document.getElementById('count').textContent.startsWith('{number + 1} of')"):
                    time.sleep(0.02)
                if number < BEFORE:
                    tab.press("1")
            for kind, width, height in (("desktop", 1200, 640), ("phone", 390, 844)):
                for dark in (False, True):
                    tab.open(server.address, width=width, height=height, dark=dark)
                    tab.picture(directory / f"label-{kind}-{'dark' if dark else 'light'}.webp")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
