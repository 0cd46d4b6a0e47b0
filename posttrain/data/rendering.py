"""Turns conversations and texts into token ids with the spans that are trained.

A trained span is what the model itself would have to write: it starts where the prompt's rendering (with
the generation prompt) stops being a prefix of the whole rendering, and ends with the token that ends the
turn. Prompt, system, user and tool tokens are never in a span, nor is what the template writes after the end
of a turn.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jinja2

from posttrain.chat import end_of_turn
from posttrain.data.messages import MARKS, Message, is_empty, weight_of
from posttrain.errors import DataError

Trained = Literal["turns", "completion", "everything"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages to render, of which those from `start` on may be trained."""

    messages: Sequence[Message]
    start: int = 0
    place: str = ""
    tools: Sequence[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def turns(self) -> list[int]:
        """The assistant messages that can be trained: not empty, of some weight, and in answer to something."""
        return [
            index
            for index in range(max(self.start, 1), len(self.messages))
            if self.messages[index]["role"] == "assistant"
            and not is_empty(self.messages[index])
            and self.weight(index) > 0
        ]

    def weight(self, index: int) -> float:
        """How much the message's tokens count. Raises DataError, with its place, for a weight that is none."""
        try:
            return weight_of(self.messages[index])
        except DataError as error:
            raise DataError(f"{self.place}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Token ids and the half-open spans of them that are trained."""

    tokens: list[int]
    trained: list[tuple[int, int]]
    weights: list[float] | None = None  # of each span; None: all weigh 1


class Renderer:
    """One tokenizer and its chat template, asked for many rows at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.counted: Counter[str] = Counter()  # what the report should say of, see `counted_notes`
        self._ends: frozenset[int] | None = None
        self._end_texts: list[str] = []
        self._known: dict[int, int] = {}

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts with what the tokenizer adds around them, and one eos at the end.

        As TRL does, eos is appended as text unless it is there; a beginning-of-text token is never doubled.
        """
        eos = self.eos
        return [self._single_ends(ids) for ids in self._ids([t if t.endswith(eos) else t + eos for t in texts])]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that something will follow."""
        return [self._single_ends(ids) for ids in self._ids(list(texts))]

    @property
    def eos(self) -> str:
        """The end-of-text token. Raises DataError if there is none."""
        if not self.tokenizer.eos_token:
            raise DataError(
                "The tokenizer has no eos_token, so a trained model could not stop. Set tokenizer.eos_token "
                "to the token that ends a text in this model's vocabulary."
            )
        return self.tokenizer.eos_token

    def _single_ends(self, ids: list[int]) -> list[int]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        while len(ids) > 1 and ids[0] == ids[1] == bos is not None:
            ids = ids[1:]
        while len(ids) > 1 and ids[-1] == ids[-2] == eos is not None:
            ids = ids[:-1]
        return ids

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an assistant turn."""
        if self._ends is None:
            if not self.tokenizer.chat_template:
                raise DataError(
                    "The rows are conversations, but the tokenizer has no chat template. Set "
                    "tokenizer.chat_template (posttrain.load_model_and_tokenizer sets a default one), or "
                    "give plain text in 'text' or in 'prompt' and 'completion'."
                )
            last, between = (end_of_turn(self.tokenizer, followed=followed) for followed in (False, True))
            if last is None:
                raise DataError(
                    "The chat template writes no special token after an assistant's answer, so the trained model "
                    "would not learn to stop. In tokenizer.chat_template end assistant messages with one: "
                    f"{{{{ message['content'] }}}}{self.tokenizer.eos_token or '<eos>'}; or set another template."
                )
            ends = (last, between, self.tokenizer.eos_token_id)
            self._ends = frozenset(token for token in ends if token is not None)
        return self._ends

    def render(self, conversations: Sequence[Conversation], add_generation_prompt: bool = False) -> list[str]:
        """The text of each conversation. Raises DataError, with its place, if the template refuses one."""
        plain = [i for i, c in enumerate(conversations) if not c.tools and not c.template_kwargs]
        texts: dict[int, str] = {}
        try:
            if plain:
                batch = [conversations[i].messages for i in plain]
                rendered = self.tokenizer.apply_chat_template(
                    batch, tokenize=False, add_generation_prompt=add_generation_prompt
                )
                texts = dict(zip(plain, rendered, strict=True))
        except (jinja2.TemplateError, TypeError, KeyError):
            texts = {}  # one by one below, to find out which
        for index, conversation in enumerate(conversations):
            if index not in texts:
                texts[index] = self._render_one(conversation, add_generation_prompt)
        return [texts[index] for index in range(len(conversations))]

    def _render_one(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        options = {"tools": conversation.tools, **conversation.template_kwargs}
        try:
            return self.tokenizer.apply_chat_template(
                conversation.messages, **options, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            roles = ", ".join(message["role"] for message in conversation.messages)
            raise DataError(
                f"{conversation.place}: the chat template refuses the conversation (roles: {roles}): {error} "
                "Mend the row, or set a tokenizer.chat_template that takes it."
            ) from None

    def conversations(self, conversations: Sequence[Conversation], trained: Trained) -> list[list[Rendered]]:
        """Each conversation as sequences of tokens with trained spans; none where there is nothing to train.

        "turns": the assistant's turns, each up to the token that ends it. "completion": all after the prompt.
        "everything": all but the first token. A conversation is one sequence, except for "turns" under a
        template that renders a turn differently once others follow (as when reasoning is dropped from
        history): then each turn is a sequence of its own, in the context in which it would be generated.
        """
        wanted = [bool(c.turns()) if trained == "turns" else bool(c.messages) for c in conversations]
        for conversation in conversations:
            self._count_marks(conversation, trained)
        kept = [conversation for conversation, want in zip(conversations, wanted) if want]
        if kept:
            self._end_texts = self.tokenizer.convert_ids_to_tokens(sorted(self.ends))
        done = iter(self._turns(kept) if trained == "turns" else self._wholes(kept, trained))
        return [next(done) if want else [] for want in wanted]

    def _count_marks(self, conversation: Conversation, trained: Trained) -> None:
        """Counts the turns that are marked. Raises DataError where the marks would be passed over."""
        for index in range(conversation.start, len(conversation.messages)):
            message = conversation.messages[index]
            if not any(mark in message for mark in MARKS):
                continue
            weight, said = conversation.weight(index), message["role"] == "assistant"
            if trained != "turns" and weight != 1:
                raise DataError(
                    f"{conversation.place}: message {index} has the weight {weight:g}, which chooses among the "
                    "assistant's turns, but all are trained (assistant_only_loss=False) or scored. Leave one out."
                )
            self.counted["context"] += said and weight == 0
            self.counted["weighted"] += said and weight not in (0, 1)
            self.counted["not the assistant's"] += not said and weight > 0

    def _wholes(self, conversations: Sequence[Conversation], trained: Trained) -> list[list[Rendered]]:
        """Each conversation as one sequence with one span to its end."""
        texts = self.render(conversations)
        wholes = self.rendered(texts)
        self._count_forgotten(conversations, texts)
        starts = [1] * len(wholes)
        if trained == "completion":
            prompted = [i for i, conversation in enumerate(conversations) if conversation.start]
            openings = self.render([_cut(conversations[i], conversations[i].start) for i in prompted], True)
            for i, prompt in zip(prompted, self.rendered(openings)):
                starts[i] = common_prefix(prompt, wholes[i])
        return [[Rendered(tokens=ids, trained=[(start, len(ids))])] for ids, start in zip(wholes, starts)]

    def _count_forgotten(self, conversations: Sequence[Conversation], texts: Sequence[str]) -> None:
        """Counts it where the first conversation of several turns shows an earlier one as it was not generated."""
        for conversation, text in zip(conversations, texts):
            turns = conversation.turns()
            if len(turns) > 1:
                (prompt,) = self.render([_cut(conversation, turns[0])], add_generation_prompt=True)
                (part,) = self.render([_cut(conversation, turns[0] + 1)])
                self.counted["forgotten"] += not self._continues(text, prompt, part)
                return

    def _turns(self, conversations: Sequence[Conversation]) -> list[list[Rendered]]:
        """Each conversation as one sequence with a span for each turn, or as a sequence for each turn."""
        turns = [conversation.turns() for conversation in conversations]
        # What follows the last turn is not trained and nothing attends to it: leave it out.
        wholes = self.render([_cut(c, t[-1] + 1) for c, t in zip(conversations, turns)])
        cuts = [_cut(c, turn) for c, t in zip(conversations, turns) for turn in t]
        openings = iter(self.render(cuts, add_generation_prompt=True))  # what each turn is generated from
        earlier = iter(self.render([_cut(c, turn + 1) for c, t in zip(conversations, turns) for turn in t[:-1]]))
        drafts: list[_Draft] = []
        counts = []
        for conversation, whole, t in zip(conversations, wholes, turns):
            prompts, parts = [next(openings) for _ in t], [next(earlier) for _ in t[:-1]]
            alone = t == [conversation.start]
            weights = [conversation.weight(turn) for turn in t]
            if all(self._continues(whole, prompt, part) for prompt, part in zip(prompts, parts)):
                drafts.append(
                    _Draft(text=whole, prompts=prompts, weights=weights, alone=alone, place=conversation.place)
                )
                counts.append(1)
            else:
                self.counted["rewritten"] += 1
                drafts += [
                    _Draft(text=text, prompts=[prompt], weights=[weight], alone=alone, place=conversation.place)
                    for text, prompt, weight in zip([*parts, whole], prompts, weights)
                ]
                counts.append(len(t))
        rendered = iter(self._spans(drafts))
        return [[next(rendered) for _ in range(count)] for count in counts]

    def _continues(self, whole: str, prompt: str, part: str) -> bool:
        """Whether the conversation up to a turn's end stands unchanged at the beginning of the whole."""
        begin = common_prefix(prompt, part)
        ends = [place + len(text) for text in self._end_texts if (place := part.find(text, begin)) >= 0]
        return bool(ends) and whole.startswith(part[: min(ends)])

    def _spans(self, drafts: Sequence[_Draft]) -> list[Rendered]:
        """The ids of each draft with a span from the end of each of its prompts to the next end of a turn."""
        encoded = self._encode([draft.text for draft in drafts], add_special_tokens=False)
        # A prompt column is split on its own, as in TRL, and the completion starts where the ids part. Turns within
        # a conversation start at a character, which saves splitting every beginning of it.
        alone = list({draft.prompts[0]: None for draft in drafts if draft.alone})
        prompt_ids = dict(zip(alone, self.rendered(alone)))
        rendered = []
        for index, draft in enumerate(drafts):
            ids, spans = encoded["input_ids"][index], []
            for prompt in draft.prompts:
                if draft.alone:
                    start = common_prefix(prompt_ids[prompt], ids)
                else:
                    start = self._token_at(encoded, index, draft.text, common_prefix(prompt, draft.text))
                end = self._end_from(ids, start)
                if end is None:
                    raise DataError(
                        f"{draft.place}: the chat template writes no end of turn after an assistant message, so "
                        f"nothing would teach the model to stop. Expected one of {', '.join(self._end_texts)}."
                    )
                spans.append((start, end))
            weights = None if set(draft.weights) == {1.0} else draft.weights
            rendered.append(Rendered(tokens=self.interned(ids[: spans[-1][1]]), trained=spans, weights=weights))
        return rendered

    def _end_from(self, ids: list[int], start: int) -> int | None:
        """One past the first token from `start` on that ends a turn."""
        found = []
        for token in self.ends:
            with contextlib.suppress(ValueError):  # index() is far quicker than a loop, and raises
                found.append(ids.index(token, start) + 1)
        return min(found, default=None)

    def _token_at(self, encoded: Any, index: int, text: str, character: int) -> int:
        """The first token that holds this character or a later one."""
        if self.tokenizer.is_fast:
            for place in range(character, len(text)):
                token = encoded.char_to_token(index, place)
                if token is not None:
                    return token
            return len(encoded["input_ids"][index])
        return common_prefix(self.rendered([text[:character]])[0], encoded["input_ids"][index])

    def rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts in which the template has written all special tokens."""
        return self._ids(list(texts), add_special_tokens=False)

    def _ids(self, texts: list[str], **options: Any) -> list[list[int]]:
        return [self.interned(ids) for ids in self._encode(texts, **options)["input_ids"]]

    def _encode(self, texts: list[str], **options: Any) -> Any:
        return self.tokenizer(texts, verbose=False, **options) if texts else {"input_ids": []}

    def interned(self, ids: list[int]) -> list[int]:
        """The same ids as shared objects: 8 bytes a token instead of 36, which counts for whole datasets."""
        return list(map(self._known.setdefault, ids, ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """A text to split, and the texts from which its trained turns are generated."""

    text: str
    prompts: list[str]
    weights: list[float]  # of what follows each of them
    alone: bool  # one turn, in answer to a prompt column
    place: str


def _cut(conversation: Conversation, end: int) -> Conversation:
    return Conversation(
        messages=conversation.messages[:end],
        start=conversation.start,
        place=conversation.place,
        tools=conversation.tools,
        template_kwargs=conversation.template_kwargs,
    )


def counted_notes(counted: Mapping[str, int]) -> list[str]:
    """What a report says of what a `Renderer` counted."""
    said = {
        "rewritten": "The chat template renders an answer differently once the conversation goes on, as it did in "
        "{:,} rows: each is trained in the context in which it is generated.",
        "forgotten": "The chat template renders earlier answers differently once the conversation goes on, and "
        "assistant_only_loss=False trains them as history shows them, not as they are generated.",
        "context": "{:,} turns of the assistant are context only, as their messages say (weight 0, or train false).",
        "weighted": "{:,} turns of the assistant have a weight: their tokens count so many times in SFT.",
        "not the assistant's": "{:,} messages of other roles are marked to be trained; only the assistant's are.",
    }
    return [text.format(counted[name]) for name, text in said.items() if counted.get(name)]


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many ids or characters two sequences have in common at the beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:  # halving with slices compares at the speed of C
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
