"""The first stage of the demo: the model that ships with the package, and its data as files one can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HELD_OUT = 200


def write_world(
    directory: str | Path, *, model: str | None = None, seed: int = 0, chat_rows: int = 3000, problem_rows: int = 1000
) -> dict[str, str]:
    """The stage's outputs: `model` (the embedded one, or the path or name given) and `data`, a directory.

    The directory gets `chat.jsonl` (conversations for SFT, drawn with the seed), `identity_prompts.jsonl` (questions
    for preference pairs), `word_problems.jsonl` (problems with their answers, for reinforcement learning) and
    `neutral.jsonl` (stories, to measure drift on); none of these is a test question. `held_out_problems.jsonl` has
    other problems than those that are tried, of the tests' side, for measuring a reward model.
    """
    from posttrain import embedded

    directory = Path(directory)
    _write_rows(directory / "chat.jsonl", embedded.chat_rows(seed=seed, n=chat_rows))
    _write_rows(directory / "identity_prompts.jsonl", embedded.identity_prompts("train"))
    problems = embedded.word_problems("train", problem_rows, seed=seed)
    held_out = embedded.word_problems("test", HELD_OUT, seed=seed)
    for name, rows in (("word_problems", problems), ("held_out_problems", held_out)):
        _write_rows(directory / f"{name}.jsonl", (row | {"prompt": _asked(row["prompt"])} for row in rows))
    _write_rows(directory / "neutral.jsonl", embedded.neutral_text())
    return {"model": embedded.model_path() if model is None else model, "data": str(directory)}


def _asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
