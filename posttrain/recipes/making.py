"""The stages in which a model makes data: the commands of `posttrain data`, in the stage's directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.curation.making import Made, Telling
from posttrain.curation.output import beside
from posttrain.errors import DataError, SamplingError


def make_data(
    fields: Any,
    directory: Path,
    work: Callable[[Any, Telling], Made],
    *,
    unit: str,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """The stage's outputs and its summary, after the command has written its rows into the directory.

    Raises SamplingError where prompts failed, which the stage asks again when it is run again, and DataError where no
    row is left for the next stage.
    """
    path = directory / fields.output

    def show(done: int, total: int | None) -> None:
        if progress is not None:
            progress("answers", done, total or done)

    made = work(fields.replace(output=str(path)), Telling(note=lambda text: None, progress=show))
    sentence = f"{made.rows} {unit} from {made.card.counts['rows read']} prompts"
    removed = [(step.name, step.rows_in - step.rows_out) for step in made.card.steps]
    if said := ", ".join(f"{count} at {name!r}" for name, count in removed if count):
        sentence += f" (rejected: {said})"
    say(sentence)
    if made.failed:
        raise SamplingError(f"{made.failed} prompts failed; run the recipe again, and they are asked again. {sentence}")
    if not made.rows:
        raise DataError(f"nothing is left to go on with: {sentence}. {beside(path, 'rejects.jsonl')} says why")
    return {**made.files, "card": str(beside(path, "card.json"))}, {unit: made.rows}
