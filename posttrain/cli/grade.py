"""`posttrain grade`: one reward on the completions in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from posttrain.errors import ConfigError, DataError, RewardError, nearest
from posttrain.rewards.names import REWARDS, about

if TYPE_CHECKING:
    from posttrain.data.loading import Rows
    from posttrain.rewards.combination import RewardSet

_HELP = """\
Usage: posttrain grade NAME --file ROWS.jsonl [--option key=value ...] [--output GRADED.jsonl]
       posttrain grade --list | posttrain grade NAME --help

Tries a reward on completions before a training run does. A row has a completion, a prompt, and the columns
that the reward reads, such as ground_truth. Shows the first grades, the mean, and what could not be graded.

  NAME                      a built-in reward, path/to/file.py:function, or package.module:function
  --file FILE               .jsonl, .json, .csv or .parquet; samples.jsonl of a run too
  --completion_column NAME  where the completion stands [completion]
  --option key=value        an option of the reward; several may follow each other
  --messages                hand over prompts and completions as messages, as training on conversations does
  --output FILE             write the rows with their grades there
  --rows N                  how many rows to show [10]
  --list                    the built-in rewards

Example:
  posttrain grade boxed_answer --file rows.jsonl
  posttrain grade length --file rows.jsonl --option target=50 unit=words --output graded.jsonl
  posttrain grade rewards.py:reward_func --file rows.jsonl --messages"""

_FLAGS = ("file", "completion_column", "option", "messages", "output", "rows", "list", "help")
_ARGUMENTS = ("prompts", "completions", "completion_ids")  # of rewards; what else they get are columns
_BATCH = 256  # completions a call; what is graded is written before the next


@dataclass(kw_only=True)
class _Given:
    name: str | None = None
    file: str | None = None
    completion_column: str = "completion"
    options: dict[str, Any] = field(default_factory=dict)
    messages: bool = False
    output: str | None = None
    rows: int = 10


def run(arguments: Sequence[str]) -> int:
    """The exit code of grading a file."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if any(word in ("-h", "--help") for word in arguments):
        named = next((word for word in arguments if word in REWARDS), None)
        print(about(named) if named else _HELP)
        return 0
    if "--list" in arguments:
        print(_list())
        return 0
    _grade(_read(arguments))
    return 0


def _list() -> str:
    width = max(map(len, REWARDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, _, line) in REWARDS.items()]
    return "\n".join(["Rewards (posttrain grade NAME --help shows the options):", *lines])


def _read(arguments: Sequence[str]) -> _Given:
    from posttrain.config.yaml_file import parse_value

    given, rest = _Given(), list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if given.name is not None:
                raise ConfigError(f"{word!r}: a second reward; grade with one at a time, options follow --option")
            given.name = word
            continue
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in _FLAGS:
            raise ConfigError(f"unknown flag {flag!r}{nearest(flag, [f'--{known}' for known in _FLAGS])}")
        if name == "messages":
            given.messages = True
            continue
        values = [value] if equals else rest[:1]
        if not equals:
            del rest[:1]
        if not values or values[0].startswith("--"):
            raise ConfigError(f"{flag} needs a value after it")
        if name == "option":
            while rest and not rest[0].startswith("--") and "=" in rest[0]:
                values.append(rest.pop(0))
            for option in values:
                key, sign, text = option.partition("=")
                if not sign or not key:
                    raise ConfigError(f"--option {option!r} must be key=value, such as target=50")
                given.options[key.replace("-", "_")] = parse_value(text)
        elif name == "rows":
            if not values[0].isdecimal():
                raise ConfigError(f"--rows={values[0]!r} must be a whole number")
            given.rows = int(values[0])
        else:
            setattr(given, name, values[0])
    if given.name is None:
        raise ConfigError("which reward? Name one; posttrain grade --list shows the built-in ones")
    if given.file is None:
        raise ConfigError(f"which completions? Name a file: posttrain grade {given.name} --file rows.jsonl")
    if given.output is not None and Path(given.output).resolve() == Path(given.file).resolve():
        raise ConfigError("--output is the file with the rows; name another one")
    return given


def _grade(given: _Given) -> None:
    from posttrain.rewards.combination import RewardSet  # it brings torch: not before the words are right

    with RewardSet([{"name": given.name, **given.options}]) as rewards:
        from posttrain.data.loading import load_rows

        rows = load_rows(given.file, name="--file")
        columns = _columns(rows, given)
        rewards.check(column for column in columns if column not in _ARGUMENTS)
        with open(given.output, "w", encoding="utf-8") if given.output else nullcontext() as output:
            grades, reasons = _grades(rewards, rows, columns, given, output)
    _show(rewards.names[0], rows, columns, grades, reasons, given)


def _columns(rows: Rows, given: _Given) -> dict[str, list[Any]]:
    """What the reward is called with, for all rows. Raises DataError naming the row that is broken."""
    from posttrain.data.messages import read_messages

    has_prompt, has_ids = ("prompt" in rows[0], "completion_ids" in rows[0])
    others = {column for record in rows for column in record} - {"prompt", given.completion_column, "completion_ids"}
    columns: dict[str, list[Any]] = {name: [] for name in ("prompts", "completions", *sorted(others))}
    for row, record in enumerate(rows):
        where = rows.where(row)
        for column in (given.completion_column, *(("prompt",) if has_prompt else ())):
            if record.get(column) is None:
                found = f"{nearest(column, record)} (its columns: {', '.join(map(str, record))})"
                flag = "" if column == "prompt" else "; --completion_column names another"
                raise DataError(f"{where}: there is no {column!r} in the row{found}{flag}")
        said: dict[str, Any] = {"completion": record[given.completion_column], "prompt": record.get("prompt", "")}
        try:
            said = {name: v if isinstance(v, str) else read_messages(v, name) for name, v in said.items()}
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if given.messages or not all(isinstance(value, str) for value in said.values()):
            for name, role in (("prompt", "user"), ("completion", "assistant")):
                if isinstance(said[name], str):
                    said[name] = [{"role": role, "content": said[name]}]
        columns["prompts"].append(said["prompt"])
        columns["completions"].append(said["completion"])
        for column in others:
            columns[column].append(record.get(column))
        if has_ids:
            ids = record.get("completion_ids")
            if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
                raise DataError(f"{where}: completion_ids must be a list of token ids, got {ids!r:.60}")
            columns.setdefault("completion_ids", []).append(ids)
    return columns


def _grades(
    rewards: RewardSet, rows: Rows, columns: dict[str, list[Any]], given: _Given, output: TextIO | None
) -> tuple[list[float | None], dict[int, str]]:
    """The grade of each row, and why some have none."""
    (name,) = rewards.names
    grades: list[float | None] = []
    reasons: dict[int, str] = {}
    for start in range(0, len(rows), _BATCH):
        batch = range(start, min(start + _BATCH, len(rows)))
        part = {column: values[batch.start : batch.stop] for column, values in columns.items()}
        try:
            scored = rewards.score(
                prompts=part["prompts"],
                completions=part["completions"],
                completion_ids=part.get("completion_ids"),
                columns={column: values for column, values in part.items() if column not in _ARGUMENTS},
                places=[rows.where(row) for row in batch],
            )
        except RewardError as error:
            hints = []
            if isinstance(error.__cause__, TypeError) and not given.messages:
                hints.append("If the function reads completion[0]['content'], give --messages.")
            if output is not None and grades:
                hints.append(f"The {len(grades)} rows before are in {given.output}.")
            raise RewardError("\n".join([str(error), *hints])) from error
        grades += scored.by_name[name]
        reasons |= {start + row: reason for row, reason in scored.reasons[name].items()}
        if output is not None:
            for row in batch:
                unjudged = {"unjudged": reasons[row]} if row in reasons else {}
                line = {**rows[row], "grade": grades[row], **unjudged}
                output.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
            output.flush()
    return grades, reasons


def _show(
    name: str, rows: Rows, columns: dict[str, list[Any]], grades: list[float | None], reasons: dict[int, str],
    given: _Given,
) -> None:  # fmt: skip
    from posttrain.rewards.columns import ANSWER_COLUMNS, completion_text

    answers = next((column for column in ANSWER_COLUMNS if column in columns), None)
    table = [["line" if rows.lines else "row", "grade", answers or "", "completion"]]
    for row in range(min(given.rows, len(rows))):
        grade, place = grades[row], rows.lines[row] if rows.lines else row
        shown = "unjudged" if row in reasons else "none" if grade is None else f"{grade:.3f}"
        answer = _tail(columns[answers][row], 20) if answers else ""
        table.append([str(place), shown, answer, _tail(completion_text(columns["completions"][row]), 64)])
    widths = [max(len(cells[column]) for cells in table) for column in range(3)]
    for cells in table if given.rows else ():
        print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths) if width), cells[3]]))
    print()
    known = [grade for grade in grades if grade is not None]
    mean = f"mean {sum(known) / len(known):.3f}" if known else "no mean"
    none = len(grades) - len(known) - len(reasons)
    print(
        f"{name}: {mean} over {len(known)} of {len(grades)} rows of {rows.source}; none (not applicable): {none}, "
        f"unjudged: {len(reasons)}"
    )
    for reason, count in Counter(reasons.values()).most_common(5):
        print(f"  unjudged: {reason} ({count})")
    print(f"results: {given.output}" if given.output else "results: not kept; --output FILE writes them")


def _tail(value: Any, limit: int) -> str:
    """The end of a text on one line: that is where the answers stand."""
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= limit else f"…{text[1 - limit :]}"
