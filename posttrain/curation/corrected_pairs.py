"""Pairs by correction as a stream: a model's own answer is rejected, the same answer corrected is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

from posttrain.curation.answering import answered
from posttrain.curation.candidates import Answer, Answered, Asking, Refused
from posttrain.curation.editing import Edit, Editor
from posttrain.curation.funnel import Funnel
from posttrain.curation.linting.edits import relative_distance
from posttrain.curation.provenance import provenance
from posttrain.curation.rows import PROVENANCE, Broken, Row
from posttrain.curation.sides import Sides
from posttrain.curation.sinks import Sink

_BATCH = 64  # prompts whose answers an editor is given together
_STEPS = ("finished", "not empty", "repeated", "edited", "stable", "changed", "bounded")


def correct_pairs(
    rows: Iterable[Row | Broken],
    how: Asking,
    editor: Editor,
    sink: Sink,
    *,
    max_change: float = 0.5,
    keep_unfinished: bool = False,
) -> None:
    """Puts a pair for each answer that the correction changed into the sink; the others are rejected with the reason.

    An edit of a function or a model that is further away from the answer than `max_change` (edit distance over
    characters, as a share of the longer text) is refused: the sides of a pair are to differ in the correction alone.
    """
    funnel, sides = Funnel(sink.card, how.journal), Sides()
    seen: set[bytes] = set()
    pairs = 0
    items = iter(answered(rows, how))
    while batch := list(islice(items, _BATCH)):
        for item, edits in _edited(batch, editor, seen, keep_unfinished):
            group = funnel.arrived(item, sink)
            if group is None:
                continue
            for place, answer in enumerate(group.answers):
                edit = _changed(edits[place], answer)
                edit = _bounded(edit, answer, max_change) if editor.bounded else edit
                consumed = int(place == len(group.answers) - 1)
                row = _row(group, how, answer, edit.text or "", editor.name)
                if edit.text is None:
                    funnel.drop(edit.step, f"{group.ask.place}: {answer.text}")
                    funnel.failed += edit.failed
                    sink.reject(row, step=edit.step, reason=edit.reason, consumed=consumed)
                else:
                    pairs += 1
                    sides.add(edit.text, answer.text)
                    sink.keep(row, consumed=consumed)
    funnel.finish([step for step in _STEPS if step not in ("stable", "edited", "bounded") or funnel.dropped[step]])
    sink.card.counts["pairs"] = pairs
    sides.write(sink.card, warn=False)  # what a correction adds is meant


def _edited(
    batch: list[Answered | Refused], editor: Editor, seen: set[bytes], keep_unfinished: bool
) -> Iterator[tuple[Answered | Refused, list[Edit]]]:
    """Each prompt with an edit for each of its answers, those that are not to be edited refused."""
    plans: list[tuple[Answered | Refused, list[Edit | None]]] = []
    for item in batch:
        answers = item.answers if isinstance(item, Answered) else ()
        plans.append((item, [_refusal(item, answer, seen, keep_unfinished) for answer in answers]))  # type: ignore[arg-type]
    groups = []
    for item, plan in plans:
        if isinstance(item, Answered) and None in plan:
            groups.append((item, [answer for answer, refused in zip(item.answers, plan) if refused is None]))
    found = editor.edit(groups)
    for item, plan in plans:
        edits = iter(next(found)) if None in plan else iter(())
        yield item, [next(edits) if refused is None else refused for refused in plan]


def _refusal(group: Answered, answer: Answer, seen: set[bytes], keep_unfinished: bool) -> Edit | None:
    """Why the answer is not corrected at all."""
    if not answer.finished and not keep_unfinished:
        reason = "cut off at max_tokens: an end of turn after it would teach to stop in mid-sentence"
        return Edit(text=None, step="finished", reason=reason)
    if not answer.text:
        return Edit(text=None, step="not empty", reason="the model answered nothing")
    said = hashlib.sha256(f"{group.ask.key}\0{answer.text}".encode("utf-8", "surrogatepass")).digest()[:16]
    if said in seen:
        return Edit(text=None, step="repeated", reason="the same prompt was answered the same before")
    seen.add(said)
    return None


def _changed(edit: Edit, answer: Answer) -> Edit:
    """The edit, refused where it changed nothing or left nothing."""
    if edit.text is None:
        return edit
    if not edit.text.strip():
        return Edit(text=None, step="not empty", reason="the correction left nothing")
    if edit.text == answer.text:
        return Edit(text=None, step="changed", reason="the correction had nothing to do")
    return edit


def _bounded(edit: Edit, answer: Answer, max_change: float) -> Edit:
    """The edit, refused where it is too far from the answer."""
    if edit.text is None or (share := relative_distance(edit.text, answer.text)) <= max_change:
        return edit
    return Edit(text=None, step="bounded", reason=f"the edit changed {share:.0%} of the answer, above {max_change:.0%}")


def _row(group: Answered, how: Asking, answer: Answer, text: str, editor: str) -> Row:
    notes = {**provenance(group.ask.row), **how.notes, "answer": answer.notes, "correction": editor}
    return {
        "prompt": group.ask.told,
        "chosen": [{"role": "assistant", "content": text}],
        "rejected": [{"role": "assistant", "content": answer.text}],
        PROVENANCE: notes,
    }
