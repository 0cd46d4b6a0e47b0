"""What becomes of rows that are longer than `max_length`: cut, dropped, split into several, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from posttrain.data.formats import Example
from posttrain.data.messages import Message
from posttrain.data.rendering import Rendered
from posttrain.errors import DataError

Policy = Literal["cut", "drop", "split", "error"]
Read = Callable[[Example], list[Rendered]]


class LongRows:
    """A policy, and what it did: `counted["split"]` rows became `counted["pieces"]`."""

    def __init__(self, policy: Policy, max_length: int | None) -> None:
        self.policy, self.limit = policy, max_length
        self.counted: Counter[str] = Counter()

    def is_long(self, sequences: Sequence[Rendered]) -> bool:
        """Whether one of the sequences has more tokens than are allowed."""
        return self.limit is not None and any(len(sequence.tokens) > self.limit for sequence in sequences)

    def drops(self, sequences: Sequence[Rendered], place: str) -> bool:
        """Whether the row is left out. Raises DataError where rows may not be longer."""
        if self.policy not in ("drop", "error") or not self.is_long(sequences):
            return False
        if self.policy == "error":
            longest = max(len(sequence.tokens) for sequence in sequences)
            raise DataError(
                f"{place}: has {longest:,} tokens, and max_length is {self.limit:,} (long_rows='error'). Shorten the "
                "row, allow more, or choose what becomes of such rows: long_rows=cut, drop or split."
            )
        return True

    def pieces(
        self, sequences: list[Rendered], example: Example | None = None, read: Read | None = None
    ) -> list[list[Rendered]]:
        """The rows that a row becomes: itself, unless it is long and can be split.

        Text is taken apart into consecutive pieces, each of which begins with the last token of the one before, so that
        every token is trained once. A conversation is taken apart before questions, as many exchanges together as there
        is room for, with its system prompt in each piece. An exchange alone that is too long, and a text completion,
        stay as they are.
        """
        if self.policy != "split" or self.limit is None or not self.is_long(sequences):
            return [sequences]
        if example is None or (example.prompt is None and isinstance(example.completions[0], str)):
            found = [[piece] for sequence in sequences for piece in windows(sequence, self.limit)]
        elif isinstance(example.completions[0], str) or read is None:
            return [sequences]
        else:
            found = list(self._conversation(example, read))
        if len(found) > 1:
            self.counted.update(split=1, pieces=len(found))
        return found or [sequences]

    def _conversation(self, example: Example, read: Read) -> Iterator[list[Rendered]]:
        """The sequences of each run of exchanges that fits; a run in which nothing is trained is left out."""
        prompt = example.prompt if isinstance(example.prompt, list) else []
        messages: list[Message] = [*prompt, *example.completions[0]]
        first, *more = exchanges(messages)
        ends = [*more, len(messages)]
        kept: list[Rendered] = []
        begin, last = first, first  # the run at hand is that from begin to last
        for end in ends:
            grown = read(_part(example, messages, messages[:first], begin, end, len(prompt)))
            if last > begin and self.is_long(grown):
                if kept:
                    yield kept
                begin, grown = last, read(_part(example, messages, messages[:first], last, end, len(prompt)))
            kept, last = grown, end
        if kept:
            yield kept

    def notes(self) -> list[str]:
        """What the report should say."""
        rows, pieces = self.counted["split"], self.counted["pieces"]
        return [f"{rows:,} rows are longer than max_length and were split into {pieces:,}."] if rows else []


def windows(sequence: Rendered, limit: int) -> Iterator[Rendered]:
    """Consecutive pieces of at most `limit` tokens that overlap in one, as context; those with a trained token."""
    for start in range(0, max(len(sequence.tokens) - 1, 1), limit - 1):
        tokens = sequence.tokens[start : start + limit]
        inside = [i for i, (b, e) in enumerate(sequence.trained) if b < start + len(tokens) and e > start + 1]
        spans = [sequence.trained[i] for i in inside]
        trained = [(max(b - start, 1), min(e - start, len(tokens))) for b, e in spans]
        weights = None if sequence.weights is None else [sequence.weights[i] for i in inside]
        if trained:
            yield Rendered(tokens=tokens, trained=trained, weights=weights)


def exchanges(messages: Sequence[Message]) -> list[int]:
    """Where exchanges begin: after the system prompt, and at each question that follows an answer."""
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    later = range(first + 1, len(messages))
    return [first, *(i for i in later if messages[i]["role"] == "user" and messages[i - 1]["role"] != "user")]


def _part(
    example: Example, messages: list[Message], system: list[Message], begin: int, end: int, asked: int
) -> Example:
    """The exchanges from `begin` to `end` with the system prompt; what stood in the prompt stays there."""
    border = min(max(asked, begin), end)
    before, after = messages[begin:border], messages[border:end]
    if asked == 0:
        return replace(example, prompt=None, completions=([*system, *after],))
    return replace(example, prompt=[*system, *before], completions=(after,))
