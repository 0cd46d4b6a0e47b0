"""`posttrain data label`: a page on which people judge answers, and the preference rows that come of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.cli.data import words
from posttrain.cli.flags import help_text, parse, read
from posttrain.config.curation.label import LabelCommand

if TYPE_CHECKING:
    from posttrain.web.journal import Journal

_EXAMPLE = """\
posttrain data label candidates.jsonl --output preferences.jsonl --annotator ana
posttrain data label sft.jsonl dpo.jsonl --output preferences.jsonl
posttrain data label candidates.jsonl --output preferences.jsonl --export"""

_ABOUT = (
    "Opens a page on this machine that shows a prompt and two or more answers, shuffled and without saying who wrote "
    "them, to be judged with keys. Rows have a prompt and answers, or are preference rows whose labels are checked "
    "blind, or come from several files of `posttrain sample` with the same prompts. Each judgement is on the disk at "
    "once, in OUTPUT.judgements.jsonl, and the same command goes on. Ctrl-C ends it and writes the preference rows."
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of labelling: 0 also where nothing was judged yet."""
    given = words(arguments)
    if not given or parse(LabelCommand, given).help:
        usage = "posttrain data label INPUT... --output FILE.jsonl [flags]"
        print(help_text(LabelCommand, usage=usage, about=_ABOUT, example=_EXAMPLE))
        return 0
    command = read(LabelCommand, given)

    from posttrain.web.export import Exported, check_output, export
    from posttrain.web.guard import is_loopback
    from posttrain.web.journal import Journal
    from posttrain.web.labelling import Labelling, annotator_name
    from posttrain.web.questions import read_questions
    from posttrain.web.server import check_extra, listen, serve
    from posttrain.web.summary import summarise

    if not command.export:
        check_extra()
    annotator = annotator_name(command.annotator) if command.annotator else ""
    output = Path(command.output)
    judgements = check_output(output, command.inputs)
    asked = read_questions(command.inputs, strict=command.strict)
    with Journal(judgements) as journal:
        for note in _notes(journal, len(asked.refused), {question.id for question in asked.questions}):
            _note(note)

        def write() -> Exported:
            settings = {"seed": command.seed, "judgements": str(judgements)}
            return export(output, asked, journal, inputs=command.inputs, settings=settings)

        if not command.export:
            listening = listen(command.host, command.port)
            if not is_loopback(command.host):
                _note("the page can be reached from the network, over plain HTTP: whoever sees the address can judge")

            def ready(address: str) -> None:
                total, people = len(asked.questions), journal.annotators()
                before = f", judged so far by {', '.join(people)}" if people else ""
                print(f"{total} question{'s' * (total != 1)}{before}. Open\n\n  {address}\n", flush=True)
                print("Ctrl-C ends, and writes the preference rows.", flush=True)

            labelling = Labelling(asked.questions, journal, seed=command.seed)
            serve(labelling, listening, host=command.host, annotator=annotator, export=write, ready=ready)
            print()
        for line in summarise(asked.questions, journal).lines():
            print(line)
        print(write().text())
    return 0


def _notes(journal: Journal, refused: int, ids: set[str]) -> list[str]:
    notes = []
    if journal.cut:
        notes.append(f"{journal.path} ended in half a line, of which no page was told; it is cut off")
    if refused:
        notes.append(f"{refused} row{'s ask' if refused != 1 else ' asks'} nothing; why stands in the rejects")
    if strange := sum(one.question not in ids for one in journal):
        notes.append(f"{strange} judgements are of questions that are not in these inputs; they are kept, not written")
    return notes


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
