"""`posttrain report`: one page on a run or a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.errors import ConfigError, nearest

_HELP = """\
Usage: posttrain report RUN [--output FILE] [--open]

Writes what a run gained and what it cost as one HTML file that needs nothing else: the verdict, scores
with intervals, drift, training curves, answers before and after, data, alarms, settings. It can be mailed,
and reads well on a phone. A run that is still going on, or was stopped, can be reported too.

  RUN            the directory of a training, of a pipeline (`posttrain run`, `posttrain demo`), or of
                 what `posttrain compare` wrote
  --output FILE  where to write it [RUN/report.html]
  --open         show it in the browser

Example:
  posttrain report runs/demo
  posttrain report runs/grpo --output grpo.html --open"""

_FLAGS = ("--output", "--open", "--help")


def run(arguments: Sequence[str]) -> int:
    """The exit code of writing a report."""
    if not arguments or any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    source, output, show = _read(arguments)

    from posttrain.report import write_report
    from posttrain.report.text import size

    written = write_report(source, output)
    print(f"report: {written.path} ({size(written.bytes)})")
    if show:
        import webbrowser

        if not webbrowser.open(written.path.resolve().as_uri()):
            print("No browser was found; open the file by hand.")
    return 0


def _read(arguments: Sequence[str]) -> tuple[Path, Path | None, bool]:
    source: Path | None = None
    output: Path | None = None
    show = False
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--open":
            show = True
        elif word == "--output" or word.startswith("--output="):
            value = word.partition("=")[2] or (rest.pop(0) if rest and not rest[0].startswith("--") else "")
            if not value:
                raise ConfigError("--output needs a file after it, such as report.html")
            output = Path(value).expanduser()
        elif word.startswith("-"):
            raise ConfigError(f"unknown flag {word!r}{nearest(word, _FLAGS)} (see posttrain report --help)")
        elif source is None:
            source = Path(word).expanduser()
        else:
            raise ConfigError(f"{word!r}: a second run; report on one at a time")
    if source is None:
        raise ConfigError("which run? Name the directory of a training or a pipeline: posttrain report runs/demo")
    return source, output, show
