"""What is carried over under a field that does not do quite the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.config.imports.translation import Imported, Note


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A difference that remains where a tool's file sets a field, in some methods."""

    tool: str
    field: str
    methods: Sequence[str]
    text: str


_SFT, _PAIRS = ("sft",), ("dpo", "cpo", "orpo")
_LF, _AX = "LLaMA-Factory", "Axolotl"

REMARKS: Sequence[Remark] = (
    Remark(tool=_LF, field="max_length", methods=("reward",), text="a pair with a longer row is left out, not cut"),
    Remark(tool=_AX, field="max_length", methods=("reward",), text="a pair with a longer row is left out, not cut"),
    Remark(
        tool=_LF, field="max_length", methods=("sft", *_PAIRS, "kto"),
        text="the end of a row that is too long is cut; there prompt and answer are, in proportion",
    ),
    Remark(
        tool=_LF, field="loss_weights", methods=("dpo",),
        text="the likelihood of the chosen answers is a mean over tokens; there a mean over answers",
    ),
    Remark(
        tool=_LF, field="cpo_alpha", methods=("cpo",),
        text="the likelihood of the chosen answers is a mean over tokens; there a mean over answers",
    ),
    Remark(
        tool=_LF, field="packing", methods=_SFT,
        text="a row sees nothing of the others in its pack; there it does unless neat_packing is set",
    ),
    Remark(
        tool=_AX, field="beta", methods=("orpo",),
        text="the likelihood is that of the chosen answer, not of its prompt too",
    ),
)  # fmt: skip


def remarks(found: Imported) -> list[Note]:
    """The differences that remain in this stage."""
    return [
        Note(name=remark.field, value=found.values[remark.field], text=remark.text)
        for remark in REMARKS
        if remark.tool == found.tool and found.method in remark.methods and found.values.get(remark.field) is not None
    ]
