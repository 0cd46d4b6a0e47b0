"""A file of answers that can be gone on with: whole groups, on the disk, made with settings that lie beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, DataError
from posttrain.sampling.prompt_rows import PromptRow
from posttrain.types import Completion


class AnswerFile:
    """JSON lines, one a completion, in groups of `count` for each prompt.

    A line has the row's other columns; prompt and completion (an assistant's message after a conversation, text after
    token ids); row and number in the group; finish_reason, tokens and logprob (the sum), null where a sampler does not
    know them. What an interruption left of a group at the end is cut off when the file is opened, to be drawn again.

    `settings` are what decides the answers; ConfigError where those that the file was made with differ.
    """

    def __init__(self, path: Path, prompts: Sequence[PromptRow], *, count: int, settings: Mapping[str, Any]) -> None:
        self.path, self.count, self.prompts = path, count, len(prompts)
        _check_settings(path, settings)
        self._done = _whole_groups(path, len(prompts), count)
        self.waiting = [prompt for prompt in prompts if prompt.row not in self._done]

    @property
    def answered(self) -> int:
        """Prompts whose answers are in the file."""
        return len(self._done)

    def add(self, prompts: Sequence[PromptRow], groups: Sequence[Sequence[Completion]]) -> None:
        """Puts the groups on the disk; an empty one is a prompt without an answer."""
        with self.path.open("ab") as file:
            file.write(b"".join(_lines(prompts, groups)))
            file.flush()
            os.fsync(file.fileno())
        self._done |= {prompt.row for prompt, group in zip(prompts, groups) if group}


def settings_path(answers: Path) -> Path:
    """Where the settings lie that the answers were made with."""
    return answers.with_name(answers.name + ".settings.json")


def _lines(prompts: Sequence[PromptRow], groups: Sequence[Sequence[Completion]]) -> Iterator[bytes]:
    for asked, group in zip(prompts, groups):
        spoken = not isinstance(asked.prompt[0], int)
        for number, completion in enumerate(group):
            line = {
                **asked.columns,
                "prompt": asked.prompt,
                "completion": [{"role": "assistant", "content": completion.text}] if spoken else completion.text,
                "row": asked.row,
                "number": number,
                "finish_reason": completion.finish_reason,
                "tokens": None if completion.tokens is None else len(completion.tokens),
                "logprob": None if completion.logprobs is None else sum(completion.logprobs),
            }
            yield _encoded(line) + b"\n"


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(line, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        return json.dumps(line, default=str).encode()


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Keeps the settings beside the answers, or compares them with those that are there."""
    kept = settings_path(path)
    now = json.loads(json.dumps(settings))
    if not path.exists() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_name(kept.name + ".new")
        new.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        new.replace(kept)
        return
    try:
        then = json.loads(kept.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} exists, and {kept} is missing, which says how its answers were made. Name another output, or move"
            " it away."
        ) from None
    except ValueError as error:
        raise ConfigError(f"{kept} is no JSON ({error}). Name another output, or move both away.") from None
    if said := changed_settings(then, now):
        raise ConfigError(
            f"{path} holds answers made with {said}. Repeat those settings to go on with it, or name another output."
        )


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, which settings differ, as "count 2 (now 3), seed 0 (now 1)"; empty where none does."""
    differing = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {_short(then.get(name))} (now {_short(now.get(name))})" for name in differing)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole_groups(path: Path, rows: int, count: int) -> set[int]:
    """The rows whose groups are whole; the rest of a group or a line at the end is cut off."""
    if not path.exists():
        return set()
    whole: set[int] = set()
    place = end = 0  # bytes read, and bytes of whole groups
    group: list[tuple[int, int]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            place += len(line)
            try:
                read = json.loads(line)
                group.append((int(read["row"]), int(read["number"])))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}: no answer of this command ({error!r}). Remove the line, or name another output."
                ) from None
            row = group[0][0]
            if group != [(row, n) for n in range(len(group))] or row in whole or not 0 <= row < rows:
                raise DataError(
                    f"{path}:{number}: answers before this line are missing or out of order. Was the file changed?"
                    " Name another output."
                )
            if len(group) == count:
                whole.add(row)
                group, end = [], place
    if path.stat().st_size > end:
        with path.open("r+b") as file:
            file.truncate(end)
    return whole
