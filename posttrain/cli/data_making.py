"""What the commands have in common that let a model make data: read, work with a bar, tell what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from posttrain.cli.data import words
from posttrain.cli.flags import help_text, parse, read
from posttrain.config.curation.answers import AnswerFields

if TYPE_CHECKING:
    from posttrain.curation.making import Made, Telling

CommandT = TypeVar("CommandT", bound=AnswerFields)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What --help says before the flags, and what comes next after the command."""

    usage: str
    about: str
    example: str
    following: str  # `{output}` is the file


def run_making(
    kind: type[CommandT], work: Callable[[], Callable[[CommandT, Telling], Made]], page: Page, arguments: Sequence[str]
) -> int:
    """The exit code: 2 where no row is left, or prompts failed, which the same command asks again.

    `work` gives the function that does it; it is called after the flags are read, since it brings torch.
    """
    given = words(arguments)
    if not given or parse(kind, given).help:
        print(help_text(kind, usage=page.usage, about=page.about, example=page.example))
        return 0
    command = read(kind, given)

    from tqdm import tqdm

    from posttrain.curation.making import Telling
    from posttrain.models.quiet import no_progress_bars

    bar = tqdm(unit="answer", disable=None, smoothing=0.1, leave=False, delay=2)

    def show(done: int, total: int | None) -> None:
        bar.total = total
        bar.update(done - bar.n)

    def note(text: str) -> None:
        tqdm.write(f"note: {text}", file=sys.stderr)

    with bar, no_progress_bars():
        made = work()(command, Telling(note=note, progress=show, arguments=tuple(arguments)))
    print(made.card.text())
    for name, file in made.files.items():
        print(f"{name}: {file}" + (", as before" if made.before else ""))
    if made.failed:
        print(f"{made.failed} prompts failed; the same command tries them again.", file=sys.stderr)
        return 2
    if not made.rows:
        print("no row is left; the rejects say why.", file=sys.stderr)
        return 2
    print(f"next: {page.following.format(output=command.output)}")
    return 0
