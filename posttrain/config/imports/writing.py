"""An imported stage as the text of a recipe, and what has to be known about it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.imports.remarks import remarks
from posttrain.config.imports.translation import Imported, Note, missing
from posttrain.config.methods import METHODS

_WIDTH = 100


def recipe_text(found: Imported) -> str:
    """The recipe as YAML. What was lost stands in comments at its end, so that it goes with the file."""
    name = Path(found.source).stem
    lines = [f"# From {os.path.basename(found.source)}, a file of {found.tool}.", f"name: {_plain(name)}"]
    if found.output_dir:
        lines.append(f"output_dir: {_plain(found.output_dir)}")
    lines += ["stages:", f"  - name: {found.method}", f"    method: {found.method}"]
    first = ("model", "train_dataset", "eval_dataset")
    names = [field for field in first if field in found.values]
    names += [field for field in found.values if field not in names]
    for field in names:
        text = yaml.safe_dump({field: found.values[field]}, sort_keys=False, allow_unicode=True, width=10**6).rstrip()
        comment = "" if found.origins.get(field) else f"  # {found.tool}'s default"
        lines += textwrap.indent(text + comment, "    ").splitlines()
    shape = METHODS[found.method].fields
    lines += [f"    # {field}: has to be written here" for field in missing(shape, found.values)]
    lines += [f"    # has to be mended: {text}" for text in found.mend]
    if differing := remarks(found):
        lines += ["", "# Carried over, with a difference:", *(f"# {line}" for line in _listed(differing))]
    if found.lost:
        lines += ["", "# Not carried over:", *(f"# {line}" for line in _listed(found.lost))]
    return "\n".join(lines) + "\n"


def report(found: Imported) -> str:
    """What was carried over, what was not and why, and which defaults had to be written out."""
    set_by_file = sum(bool(found.origins.get(name)) for name in found.values)
    parts = [f"{found.tool}: the file set {set_by_file} fields of the method {found.method}."]
    if written := found.written_out():
        values = ", ".join(f"{name}={_plain(found.values[name])}" for name in written)
        parts.append(_filled(f"Written out, because the default here is another one: {values}."))
    if absent := missing(METHODS[found.method].fields, found.values):
        parts.append(f"Has to be written into the recipe: {', '.join(absent)}.")
    parts += [_filled(f"Has to be mended in the recipe: {text}.") for text in found.mend]
    if found.lost:
        parts.append("Not carried over:\n" + "\n".join(_listed(found.lost)))
    if differing := remarks(found):
        parts.append("Carried over, with a difference:\n" + "\n".join(_listed(differing)))
    if found.idle:
        parts.append("Nothing to do for:\n" + "\n".join(_listed(found.idle)))
    return "\n\n".join(parts)


def _listed(notes: Sequence[Note]) -> list[str]:
    lines: list[str] = []
    for note in notes:
        text = f"{note.name}: {_short(note.value)} - {note.text}"
        lines += textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="      ")
    return lines


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ")


def _short(value: Any) -> str:
    text = _plain(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
