"""Turns conversations and texts into token ids with the spans that are trained.

A trained span is what the model itself would have to write: it starts where the prompt's rendering (with
the generation prompt) stops being a prefix of the whole rendering, and ends with the token that ends the
turn. Prompt, system, user and tool tokens are never in a span, nor is what the template writes after the end
of a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jinja2

from posttrain.data.messages import Message, is_empty
from posttrain.data.stops import turn_ends
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
        """The assistant messages that can be trained: not empty, and in answer to something."""
        return [
            index
            for index in range(max(self.start, 1), len(self.messages))
            if self.messages[index]["role"] == "assistant" and not is_empty(self.messages[index])
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Token ids and the half-open spans of them that are trained."""

    tokens: list[int]
    trained: list[tuple[int, int]]


class Renderer:
    """One tokenizer and its chat template, asked for many rows at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.rewritten = 0  # conversations whose earlier turns the template renders differently later on
        self._ends: frozenset[int] | None = None
        self._end_texts: list[str] = []

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

    def _ids(self, texts: list[str], **options: Any) -> list[list[int]]:
        return self.tokenizer(texts, verbose=False, **options)["input_ids"] if texts else []

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
            self._ends = turn_ends(self.tokenizer)
            self._end_texts = self.tokenizer.convert_ids_to_tokens(sorted(self._ends))
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
        if trained == "turns":
            return self._turns(conversations)
        kept = [conversation for conversation in conversations if conversation.messages]
        self._require_template(kept)
        wholes = self._rendered_ids(self.render(kept))
        if trained == "everything":
            done = iter([[Rendered(tokens=ids, trained=[(1, len(ids))])] for ids in wholes])
        else:
            done = iter(
                [
                    [Rendered(tokens=ids, trained=[(start, len(ids))])]
                    for ids, start in zip(wholes, self._prompt_lengths(kept, wholes))
                ]
            )
        return [next(done) if conversation.messages else [] for conversation in conversations]

    def _require_template(self, conversations: Sequence[Conversation]) -> None:
        if conversations:
            _ = self.ends

    def _rendered_ids(self, texts: list[str]) -> list[list[int]]:
        return self._ids(texts, add_special_tokens=False)  # the template has written them

    def _prompt_lengths(self, conversations: Sequence[Conversation], wholes: Sequence[list[int]]) -> list[int]:
        """How many ids of each whole rendering are its prompt's when that is split on its own."""
        prompts = [_cut(conversation, conversation.start) for conversation in conversations]
        ids = iter(self._rendered_ids(self.render([p for p in prompts if p.messages], add_generation_prompt=True)))
        return [common_prefix(next(ids), whole) if prompt.messages else 0 for prompt, whole in zip(prompts, wholes)]

    def _turns(self, conversations: Sequence[Conversation]) -> list[list[Rendered]]:
        turns = [conversation.turns() for conversation in conversations]
        # What follows the last turn is not trained and nothing attends to it: leave it out.
        jobs = [_cut(c, t[-1] + 1) for c, t in zip(conversations, turns) if t]
        turns_of = [t for t in turns if t]
        self._require_template(jobs)
        wholes = self.render(jobs)
        openings = self._openings(jobs, turns_of)
        earlier = self._earlier(jobs, turns_of)
        texts: list[str] = []  # of the sequences, and for each the characters at which its turns begin
        starts: list[list[int]] = []
        counts: list[int] = []
        for whole, prompts, parts in zip(wholes, openings, earlier):
            if all(self._continues(whole, prompt, part) for prompt, part in zip(prompts, parts)):
                texts.append(whole)
                starts.append([common_prefix(prompt, whole) for prompt in prompts])
                counts.append(1)
            else:
                self.rewritten += 1
                texts.extend([*parts, whole])
                starts.extend([common_prefix(prompt, text)] for prompt, text in zip(prompts, [*parts, whole]))
                counts.append(len(prompts))
        sequences = self._spans(texts, starts, [job for job, count in zip(jobs, counts) for _ in range(count)])
        # A prompt column, as in TRL, is split on its own, and the completion starts where the ids part.
        first = 0
        prompted = [(i, job) for i, (job, t) in enumerate(zip(jobs, turns_of)) if job.start and t == [job.start]]
        offsets = []
        for count in counts:
            offsets.append(first)
            first += count
        wholes_ids = [sequences[offsets[i]].tokens for i, _ in prompted]
        for (i, _), start in zip(prompted, self._prompt_lengths([job for _, job in prompted], wholes_ids)):
            sequence = sequences[offsets[i]]
            sequences[offsets[i]] = Rendered(tokens=sequence.tokens, trained=[(start, sequence.trained[0][1])])
        groups = iter([sequences[offset : offset + count] for offset, count in zip(offsets, counts)])
        return [next(groups) if t else [] for t in turns]

    def _openings(self, jobs: Sequence[Conversation], turns: Sequence[list[int]]) -> list[list[str]]:
        """For each conversation the text that each turn is generated from."""
        flat = [_cut(job, turn) for job, of in zip(jobs, turns) for turn in of]
        texts = iter(self.render(flat, add_generation_prompt=True))
        return [[next(texts) for _ in of] for of in turns]

    def _earlier(self, jobs: Sequence[Conversation], turns: Sequence[list[int]]) -> list[list[str]]:
        """For each conversation its text up to each turn but the last."""
        flat = [_cut(job, turn + 1) for job, of in zip(jobs, turns) for turn in of[:-1]]
        texts = iter(self.render(flat))
        return [[next(texts) for _ in of[:-1]] for of in turns]

    def _continues(self, whole: str, prompt: str, part: str) -> bool:
        """Whether the conversation up to a turn's end stands unchanged at the beginning of the whole."""
        begin = common_prefix(prompt, part)
        ends = [place + len(text) for text in self._end_texts if (place := part.find(text, begin)) >= 0]
        return bool(ends) and whole.startswith(part[: min(ends)])

    def _spans(self, texts: list[str], starts: Sequence[list[int]], jobs: Sequence[Conversation]) -> list[Rendered]:
        """The ids of the texts with a span from each start to the next end of a turn."""
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)
        rendered = []
        for index, (ids, characters, job) in enumerate(zip(encoded["input_ids"], starts, jobs, strict=True)):
            spans = []
            for character in characters:
                start = self._token_at(encoded, index, texts[index], character)
                end = next((i for i in range(start, len(ids)) if ids[i] in self.ends), None)
                if end is None:
                    raise DataError(
                        f"{job.place}: the chat template writes no end of turn after an assistant message, so "
                        "nothing would teach the model to stop. Expected one of "
                        f"{', '.join(self._end_texts)}."
                    )
                spans.append((start, end + 1))
            rendered.append(Rendered(tokens=ids[: spans[-1][1]], trained=spans))
        return rendered

    def _token_at(self, encoded: Any, index: int, text: str, character: int) -> int:
        """The first token that holds this character or a later one."""
        if self.tokenizer.is_fast:
            for place in range(character, len(text)):
                token = encoded.char_to_token(index, place)
                if token is not None:
                    return token
            return len(encoded["input_ids"][index])
        return common_prefix(self._rendered_ids([text[:character]])[0], encoded["input_ids"][index])


def _cut(conversation: Conversation, end: int) -> Conversation:
    return Conversation(
        messages=conversation.messages[:end],
        start=conversation.start,
        place=conversation.place,
        tools=conversation.tools,
        template_kwargs=conversation.template_kwargs,
    )


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many ids or characters two sequences have in common at the beginning."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(i for i, (a, b) in enumerate(zip(one, other)) if a != b)
