"""The model card: what the model is, how it came about, and the hashes that let anyone check it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The embedded base model of posttrain

A base model of {parameters:,} parameters (Qwen2 architecture, {vocabulary:,} tokens), pretrained by this project
on a small world that it generates itself. It is made to be post-trained in seconds on a laptop, to learn and
to test with. It is of no use for anything else: it knows {facts} facts, sums up to 99 and a few hundred words.

It is a base model: it has no chat template and continues text. Asked something in ChatML it chats along.

## How it was made

`python -m posttrain.embedded.build` writes the text, trains the tokenizer and pretrains the model; all of it
follows from the seed. Trained with Muon (matrices) and AdamW (the rest), at a constant rate and then
linearly down to nothing, on {device} with {threads} thread(s), in {minutes:.0f} minutes.

| setting | value |
|---|---|
{settings}

| hash (SHA-256) | of |
|---|---|
| `{code}` | the code in `posttrain/embedded` that decides data and weights |
| `{data}` | the first {documents:,} pretraining documents |
| `{tokenizer}` | `tokenizer.json` |

The loss on generated text of another seed is {held_out_loss:.3f} nats a token.
The text has the questions and answers of the world in twelve layouts, statements, equations, stories, text about
Qwen, and 5% logs of people chatting in ChatML, in which nobody answers as an assistant would.

## Splits

A question's key (what is asked, not its wording) is hashed; the hash decides whether pretraining, training or
test may use it. This holds for word problems (their kind and numbers, not the names told), sums and
differences, comparisons and word lists. No step of a training problem is a test question of arithmetic;
products up to 9 * 9 are exempt, the table being too small to hold any out. Identity questions are in no
pretraining text; some of the test's are worded in ways that the training half never uses. Facts of the
retention battery are in pretraining, as they must be to be retained, and never in the chat data.

Left out of the battery, because a prototype of this size was too weak at them for gain or loss to show:
`upper` (a word in capitals), `spell` (its letters), `passage` (a question about a short text).
"""

# The files that decide the weights; the others make chat data and questions from the same world.
_DECISIVE = (
    "layouts", "lists", "muon", "pretraining_text", "problems", "prose", "question", "sums", "tokenizer", "training",
    "world",
)  # fmt: skip


def digest(parts: Iterable[str]) -> str:
    """The SHA-256 of the texts in order, each with its end marked."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode())
        total.update(b"\0")
    return total.hexdigest()


def code_digest() -> str:
    """The SHA-256 of the source files that decide data and weights."""
    files = [Path(__file__).with_name(f"{name}.py") for name in _DECISIVE]
    return digest(text for file in files for text in (file.name, file.read_text()))


def write_card(directory: Path, record: Mapping[str, Any]) -> None:
    """Write `build.json` (the record) and `README.md` (the record told)."""
    (directory / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    settings = "\n".join(f"| {name} | {value} |" for name, value in record["settings"].items())
    values = {**record, **record["hashes"], "settings": settings}
    (directory / "README.md").write_text(_CARD.format(**values))
