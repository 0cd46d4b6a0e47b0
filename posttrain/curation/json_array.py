"""An array of objects as a stream of rows: only a block of it is in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from posttrain.curation.json_rows import DECODER, LENIENT, NotANumberError, broken, checked, fault
from posttrain.curation.rows import TEXT_LIMIT, UNREADABLE, Broken

_BLOCK = 1 << 18
_LARGEST = 1 << 27  # characters of an element; what is longer has lost its end
_NEAR = 16  # a word of JSON that is cut off by the end of a block is not longer
_SPACE = re.compile(r"[ \t\r\n]*")


def array_rows(name: str, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of an array of objects; its number where elements do not have lines of their own.

    After a broken element reading goes on where a line begins as the first element's did; where elements do not have
    lines of their own, the rest of the array is one broken row.
    """
    text = _Text(file)
    text.skip_space()
    text.advance(1)  # the bracket
    text.skip_space()
    margin = text.margin()
    number = 0
    while (sign := text.sign()) != "]":
        number += 1
        line = number if margin is None else text.line
        if sign == "":
            yield line, Broken(source=name, line=line, reason="the array is not closed: the file ends early")
            return
        try:
            value, spelled = text.element()
        except (ValueError, RecursionError) as error:
            yield line, broken(name, line, text.rest(), error)
            if not text.resume(margin):
                return
            continue
        yield line, _checked(name, line, spelled, value)
        text.skip_space()
        if (sign := text.sign()) == ",":
            text.advance(1)
            text.skip_space()
        elif sign not in ("", "]", "{"):
            found = text.rest()[:TEXT_LIMIT]
            line = number if margin is None else text.line
            yield line, Broken(source=name, line=line, reason=f"expected , or ], found {sign!r}", text=found)
            if not text.resume(margin):
                return
    text.advance(1)
    text.skip_space()
    if text.sign():
        yield text.line, Broken(source=name, line=text.line, reason="there is more after the end of the array")


def _checked(name: str, line: int, spelled: str, value: Any) -> Any:
    if isinstance(value, NotANumberError):
        return broken(name, line, spelled, value)
    if not spelled.isascii() and fault(spelled) is not None:
        field, _ = fault(value) or (None, "")
        shown = spelled[:TEXT_LIMIT].encode(errors="surrogateescape").decode(errors="backslashreplace")
        return Broken(source=name, line=line, field=field, reason="is not UTF-8", text=shown)
    return checked(name, line, spelled, value)


class _Text:
    """What was read and not yet consumed of a file, and the line at which that begins."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self._text, self._at, self._ended = "", 0, False
        self.line = 1

    def sign(self) -> str:
        """The next character, empty at the end."""
        return self._text[self._at : self._at + 1]

    def rest(self) -> str:
        """What is in memory from here on."""
        return self._text[self._at :]

    def advance(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._at)
            self.advance(found.end() - self._at if found else 0)
            if self._at < len(self._text) or not self._fill():
                return

    def margin(self) -> str | None:
        """What stands before this character in its line, if that is nothing but space."""
        begin = self._text.rfind("\n", 0, self._at)
        before = self._text[begin + 1 : self._at]
        return before if begin >= 0 and not before.strip() else None

    def element(self) -> tuple[Any, str]:
        """The value that begins here, and how it is spelled; NotANumberError in its place where it holds one."""
        while True:
            try:
                value, end = self._decode()
                if end < len(self._text) or not self._fill():
                    break
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR
                if not cut or len(self._text) - self._at > _LARGEST or not self._fill():
                    raise json.JSONDecodeError(error.msg, self.rest(), error.pos - self._at) from None
        spelled = self._text[self._at : end]
        self.advance(end - self._at)
        return value, spelled

    def _decode(self) -> tuple[Any, int]:
        try:
            return DECODER.raw_decode(self._text, self._at)
        except NotANumberError as error:
            return error, LENIENT.raw_decode(self._text, self._at)[1]

    def resume(self, margin: str | None) -> bool:
        """Goes to the next element that begins its line as `margin` says, or to the end: then False."""
        begin = f"\n{margin}{{"
        while True:
            found = -1 if margin is None else self._text.find(begin, self._at)
            if found >= 0:
                self.advance(found + len(begin) - 1 - self._at)
                return True
            self.advance(max(len(self._text) - len(begin) - self._at, 0))
            if not self._fill():
                return False

    def _fill(self) -> bool:
        """Reads as much again as is in memory; False at the end."""
        if self._ended:
            return False
        self._text, self._at = self._text[self._at :], 0
        wanted, pieces = max(_BLOCK, len(self._text)), [self._text]
        while wanted > 0 and not self._ended:
            try:
                block = self._file.read(_BLOCK)
            except UNREADABLE:  # the array is not closed
                block = b""
            self._ended = not block
            pieces.append(self._decoder.decode(block, final=self._ended))
            wanted -= len(block)
        self._text = "".join(pieces)
        return True
