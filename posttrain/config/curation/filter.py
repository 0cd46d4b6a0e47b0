"""What `posttrain data filter` and the stage `filter` of a recipe are told: which filters, and how strict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from posttrain.config.base import Config, option
from posttrain.config.curation.inputs import DATA, DataFields

NEAR = 0.4  # similarity from which rows are near duplicates: about a quarter of the words replaced
_ROWS, _LENGTH = "Single rows", "Length"
_DOUBLE, _LEAK, _SCORES, _SELECT = "Duplicates", "Evaluation sets", "Scores of a model", "Selection"
_MEASURES = ("answer_words", "answer_characters", "prompt_words", "prompt_characters", "turns", "tokens")


def _limit(which: str, what: str) -> Any:
    return option(None, f"{'Least' if which == 'min' else 'Most'} {what}.", group=_LENGTH, ge=0)


class FilterFields(Config):
    """The filters, in the order in which they are applied. What is off unless it is set has the default none."""

    empty: bool = option(True, "Leave out rows with an empty answer, or one such as N/A.", group=_ROWS)
    formatting: bool = option(
        True, "Leave out open code blocks, tokens of chat templates and wrongly decoded letters.", group=_ROWS
    )
    refusals: bool = option(False, "Leave out answers that begin by declining (English, Chinese).", group=_ROWS)
    max_repetition: float | None = option(
        None, "Most of an answer's runs of four words that stood in it before, as a share.", group=_ROWS, ge=0, le=1
    )
    languages: list[str] | None = option(
        None, "Languages (en zh) or scripts (latin han) that answers may be in.", group=_ROWS
    )
    language_of: Literal["answer", "prompt", "row"] = option("answer", "What is to be in them.", group=_ROWS)
    forbidden_words: list[str] | None = option(
        None, "Words and phrases no row may hold, or .txt files with one a line.", group=_ROWS
    )
    forbidden_in: Literal["row", "answer", "prompt"] = option("row", "Where they are looked for.", group=_ROWS)
    min_answer_words: int | None = _limit("min", "words of an answer; a Chinese character is one")
    max_answer_words: int | None = _limit("max", "words of an answer")
    min_answer_characters: int | None = _limit("min", "characters of an answer")
    max_answer_characters: int | None = _limit("max", "characters of an answer")
    min_prompt_words: int | None = _limit("min", "words before the answer")
    max_prompt_words: int | None = _limit("max", "words before the answer")
    min_prompt_characters: int | None = _limit("min", "characters before the answer")
    max_prompt_characters: int | None = _limit("max", "characters before the answer")
    min_turns: int | None = _limit("min", "answers of a conversation")
    max_turns: int | None = _limit("max", "answers of a conversation")
    min_tokens: int | None = _limit("min", "tokens of the row under the tokenizer")
    max_tokens: int | None = _limit("max", "tokens of the row under the tokenizer")
    tokenizer: str | None = option(None, "Directory or name of the tokenizer that counts tokens.", group=_LENGTH)
    decontaminate: list[str] | None = option(
        None, "Files of evaluation questions; rows that hold one are left out.", group=_LEAK
    )
    contamination_words: int = option(8, "Words in a row that count as shared.", group=_LEAK, ge=2, le=64)
    contamination_characters: int = option(13, "The same in Chinese characters.", group=_LEAK, ge=2, le=64)
    contamination_share: float = option(
        0.5, "Share of a question's words that shared runs must cover.", group=_LEAK, gt=0, le=1
    )
    duplicates: bool = option(True, "Leave out rows that are equal but for case and white space.", group=_DOUBLE)
    near_duplicates: bool | float | None = option(
        None, f"Leave out rows at least so similar (Jaccard of word pairs); true is {NEAR}.", group=_DOUBLE
    )
    duplicates_by: Literal["row", "prompt", "answer"] = option("row", "What is compared.", group=_DOUBLE)
    keep: Literal["first", "best"] = option(
        "first", "Which of several duplicates stays: the first, or the one best by best_by.", group=_DOUBLE
    )
    ifd_model: str | None = option(
        None, "Small model for IFD: the answer's loss with over without its prompt.", group=_SCORES
    )
    min_ifd: float | None = option(None, "Least IFD.", group=_SCORES, ge=0)
    max_ifd: float | None = option(
        None, "Most IFD; above 1 the prompt makes the answer less likely.", group=_SCORES, ge=0
    )
    top_ifd: float | None = option(None, "Share of the rows, those of the highest IFD.", group=_SCORES, gt=0, le=1)
    reward: str | None = option(
        None, "Reward by name, file.py:function, or directory of a reward model.", group=_SCORES
    )
    reward_options: dict[str, Any] = option({}, "The reward's options, such as {target: 50}.", group=_SCORES)
    min_reward: float | None = option(None, "Least reward.", group=_SCORES)
    top_reward: float | None = option(
        None, "Share of the rows, those of the highest reward.", group=_SCORES, gt=0, le=1
    )
    max_length: int = option(2048, "Tokens of a row that the model reads at most.", group=_SCORES, ge=2)
    select: int | None = option(None, "Rows to select for diversity.", group=_SELECT, ge=1)
    select_by: Literal["clusters", "k_centre"] = option(
        "clusters", "The best of each cluster, or rows as far from each other as possible.", group=_SELECT
    )
    embedding_model: str | None = option(
        None, "Model whose mean hidden states tell rows apart; none = TF-IDF of their words.", group=_SELECT
    )
    best_by: Literal["reward", "ifd", "length"] | None = option(
        None, "What is best; none = reward, else ifd, else the most typical of a cluster.", group=_SELECT
    )
    seed: int = option(0, "Seed of the clusters.", group=_SELECT, ge=0)
    workers: int | None = option(None, "Processes; none = one a core.", group=DATA, ge=1)

    @classmethod
    def parse_field(cls, name: str, text: str) -> Any:
        """As for every field, but one word of a list is what was written: `no` is a language, not false."""
        if name in ("languages", "forbidden_words", "decontaminate") and not text.startswith("["):
            return None if text.lower() in ("none", "null", "") else [text]
        return super().parse_field(name, text)

    @property
    def near(self) -> float | None:
        """The similarity from which rows are near duplicates, or None."""
        if isinstance(self.near_duplicates, bool):
            return NEAR if self.near_duplicates else None
        return self.near_duplicates

    def limits(self) -> dict[str, tuple[int | None, int | None]]:
        """What is measured of a row's length -> least and most."""
        pairs = {name: (getattr(self, f"min_{name}"), getattr(self, f"max_{name}")) for name in _MEASURES}
        return {name: pair for name, pair in pairs.items() if pair != (None, None)}

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        given = self.model_fields_set
        if isinstance(near := self.near_duplicates, float) and not 0.2 <= near <= 1:
            yield (
                "near_duplicates",
                f"near_duplicates={near:g} must be a similarity from 0.2 to 1, where 1 is the same word pairs",
            )
        for name, (least, most) in self.limits().items():
            if least is not None and most is not None and least > most:
                yield f"min_{name}", f"min_{name}={least} is above max_{name}={most}: no row would be left"
        if "tokens" in self.limits() and self.tokenizer is None:
            yield "tokenizer", "min_tokens and max_tokens need a tokenizer: the directory or name of a model"
        for name, needed in (
            ("language_of", "languages"), ("forbidden_in", "forbidden_words"), ("tokenizer", "max_tokens"),
            ("min_ifd", "ifd_model"), ("max_ifd", "ifd_model"), ("top_ifd", "ifd_model"),
            ("min_reward", "reward"), ("top_reward", "reward"), ("reward_options", "reward"),
            ("select_by", "select"), ("embedding_model", "select"),
        ):  # fmt: skip
            there = getattr(self, needed) is not None or (needed == "max_tokens" and self.min_tokens is not None)
            if name in given and getattr(self, name) not in (None, {}) and not there:
                yield name, f"{name} has an effect only together with {needed}"
        for name, needed in (("ifd", "ifd_model"), ("reward", "reward")):
            if self.best_by == name and getattr(self, needed) is None:
                yield "best_by", f"best_by={name} needs {needed}"
        if self.select_by == "k_centre" and self.best_by and self.keep == "first":
            yield "best_by", "best_by has no effect with select_by=k_centre, which looks at distances alone"
        if self.keep == "best" and not (self.best_by or self.reward or self.ifd_model):
            yield "keep", "keep=best needs something to be best by: best_by=length, a reward, or an ifd_model"
        if self.keep == "best" and not (self.duplicates or self.near):
            yield "keep", "keep=best has an effect only together with duplicates or near_duplicates"


class FilterCommand(DataFields, FilterFields):
    """`posttrain data filter`."""

    @classmethod
    def parse_field(cls, name: str, text: str) -> Any:
        """As each of the two reads it."""
        return (
            DataFields.parse_field(name, text) if name == "inputs" else super(DataFields, cls).parse_field(name, text)
        )

    def filters(self) -> FilterFields:
        """The filters alone."""
        return _filters(self)


class FilterStage(FilterCommand):
    """The method filter of a recipe; its output lies in the stage's directory."""

    output: str = option("data.jsonl", "Name of the file in the stage's directory.", group=DATA)
    decontaminate: list[str] | None = option(
        None, "Files of evaluation questions; unset = those that later stages evaluate on.", group=_LEAK
    )

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def _filters(command: FilterFields) -> FilterFields:
    given = command.model_fields_set
    return FilterFields(**{name: getattr(command, name) for name in FilterFields.model_fields if name in given})
