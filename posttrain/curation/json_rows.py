"""JSON as a stream of rows, an object a line, and what can be wrong with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from posttrain.curation.rows import TEXT_LIMIT, UNREADABLE, Broken, unreadable

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # JSON can spell half of a pair, and a file of text cannot hold it


class NotANumberError(ValueError):
    """NaN or Infinity, which JSON does not have, or a number as large."""


def _no_constant(name: str) -> Any:
    raise NotANumberError(name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NotANumberError(text[:40])
    return number


DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
LENIENT = json.JSONDecoder()  # reads NaN, to say in which field it stands


def line_rows(name: str, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """(line, value) of each line that is not empty; Broken for one that is no JSON."""
    line = 0
    try:
        for line, raw in enumerate(file, start=1):
            if line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield line, _value(name, line, raw)
    except UNREADABLE as error:
        yield line + 1, unreadable(name, line + 1, error)


def _value(name: str, line: int, raw: bytes) -> Any:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        shown = raw[:TEXT_LIMIT].decode(errors="backslashreplace")
        reason = f"is not UTF-8: byte {error.object[error.start]:#04x} at {error.start + 1}"
        return Broken(source=name, line=line, reason=reason, text=shown)
    text = text.strip()
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return broken(name, line, text, error)
    return checked(name, line, text, value)


def broken(name: str, line: int, text: str, error: Exception) -> Broken:
    """What is wrong with text that is no JSON, and what most likely led to it."""
    shown = text[:TEXT_LIMIT]
    if isinstance(error, NotANumberError):
        field, _ = fault(LENIENT.decode(text)) or (None, "")
        return Broken(source=name, line=line, field=field, reason=f"holds {error}, which is no number", text=shown)
    if isinstance(error, RecursionError):
        return Broken(source=name, line=line, reason="is nested too deeply to be read", text=shown)
    if not isinstance(error, json.JSONDecodeError):  # an integer of thousands of digits
        return Broken(source=name, line=line, reason=f"is not valid JSON: {error}", text=shown)
    rest = text[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated"):
        why = "it ends early"
    elif rest[0] == "'" or text.startswith("{'"):
        why = "JSON wants double quotes; json.dumps writes them, str() does not"
    elif error.msg.startswith("Extra data"):
        why = "a line must hold one object and nothing else"
    else:
        why = "json.dumps writes rows correctly"
    where = f"column {error.colno}" if error.lineno == 1 else f"line {line + error.lineno - 1}, column {error.colno}"
    reason = f"is not valid JSON: {error.msg} at {where} ({why})"
    return Broken(source=name, line=line, reason=reason, text=shown)


def checked(name: str, line: int, text: str, value: Any) -> Any:
    """The value, or Broken where it holds what cannot be written as UTF-8 again."""
    if "\\u" in text and _SURROGATE.search(text) and (found := fault(value)) is not None:
        field, reason = found
        return Broken(source=name, line=line, field=field, reason=reason, text=text[:TEXT_LIMIT])
    return value


def fault(value: Any, field: str = "") -> tuple[str | None, str] | None:
    """(field, reason) of the first part of a value that JSON and UTF-8 cannot hold, or None."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return field or None, "holds half of a surrogate pair, which is no character"
    elif isinstance(value, float):
        if not math.isfinite(value):
            return field or None, f"is {value}, which is no number"
    elif isinstance(value, dict):
        for key, item in value.items():
            if (found := fault(item, f"{field}.{key}" if field else str(key))) or (found := fault(key, field)):
                return found
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if found := fault(item, f"{field}[{index}]"):
                return found
    return None
