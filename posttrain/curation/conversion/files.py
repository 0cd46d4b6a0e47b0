"""Converting files: one output for all inputs, going on where an interrupted command was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.config.curation.convert import ConvertStage
from posttrain.curation.card import Card
from posttrain.curation.conversion.convert import STEP, Converter
from posttrain.curation.output import READ, Output
from posttrain.curation.progress import counted
from posttrain.curation.provenance import without_provenance
from posttrain.curation.reading import expected_rows
from posttrain.curation.rows import STANDARD_INPUT, Broken, field_of, read_stream


def convert_files(fields: ConvertStage, output: str | Path, *, arguments: Sequence[str] = ()) -> Card:
    """The card, after the rows of all inputs were written to the output. Raises as `Converter.convert`."""
    inputs = fields.inputs
    settings = {name: value for name, value in fields.to_dict().items() if name not in ("inputs", "output")}
    converter = _converter(fields)
    _look_at(inputs, _converter(fields))
    with Output(output, command="data convert", settings=settings, inputs=inputs, arguments=arguments) as out:
        if out.finished:
            return out.card
        results = (
            result for name in inputs for result in converter.convert(read_stream([name], strict=fields.strict), name)
        )
        for number, (row, made, reason) in enumerate(counted(results, expected_rows(inputs))):
            if number < out.consumed:
                continue
            if isinstance(row, Broken):
                out.reject(row)
            elif not made:
                out.reject(row, step=STEP, reason=reason, field=field_of(reason))
            for left, new in zip(range(len(made) - 1, -1, -1), made):
                out.keep(new if fields.provenance else without_provenance(new), consumed=int(left == 0))
        out.funnel([STEP])
        left = out.consumed - out.rejected[READ]
        shown = out.examples.get(STEP, ())
        out.card.step(STEP, left, left - out.rejected[STEP], shown, written=out.kept)
        out.card.notes += converter.notes()
    return out.card


def _converter(fields: ConvertStage) -> Converter:
    return Converter(
        to=fields.to, conversational=fields.conversational, tree_pairs=fields.tree_pairs, strict=fields.strict
    )


def _look_at(inputs: Sequence[str], converter: Converter) -> None:
    """Finds what cannot be converted as a whole before anything is written."""
    read_stream(inputs)
    for name in inputs:
        if name != STANDARD_INPUT:
            next(converter.convert(read_stream([name]), name), None)
