"""A reward model as a reward: the score that it gives prompt and completion, rendered as it was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from posttrain.data.rendering import Conversation, Renderer, common_prefix
from posttrain.errors import ModelError, RewardError
from posttrain.models.loading import load_tokenizer, prepare_tokenizer
from posttrain.models.locating import check_model_directory, local_directory
from posttrain.models.score_loading import is_reward_model, load_score_model, settle_pad_token
from posttrain.models.scoring import ScoreLearner
from posttrain.rewards.columns import ANSWER_COLUMNS
from posttrain.types import Batch, Reward, Segment, TokenForest, Unjudged

TOKENS_PER_PASS = {"cpu": 2048}
TOKENS_PER_PASS_ELSEWHERE = 32768


def reward_model(
    model: str | os.PathLike[str] | Any,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    *,
    max_length: int | None = None,
    probability: bool = False,
    trust_remote_code: bool = False,
) -> Reward:
    """The score of a reward model: a directory or name, or a transformers classifier with num_labels=1.

    Prompt and completion are rendered as `RewardTrainer` renders rows: messages by the reward model's own chat
    template, texts one after the other with its end of text. A row of more than `max_length` tokens (or the model's
    positions) is Unjudged, never cut. `probability` gives 1 / (1 + e^-score), the probability of being preferred to an
    answer of score 0, which lies between 0 and 1 as graders need it. A model that is named is loaded when it is first
    needed; one that is handed over stays where it is. Raises ModelError for what is no reward model.
    """
    if max_length is not None and max_length < 2:
        raise RewardError(f"reward_model: max_length={max_length} must be at least 2, or left out")
    return _RewardModel(model, tokenizer, max_length, probability, trust_remote_code)


class _RewardModel:
    """The reward itself. Completions of one prompt share its computation."""

    learned = True  # what it likes is not what is right: guards watch it beside what checks

    def __init__(
        self, model: Any, tokenizer: Any, max_length: int | None, probability: bool, trust_remote_code: bool
    ) -> None:
        self.__name__ = "reward_model"
        self._given, self._tokenizer_given = model, tokenizer
        self._max_length, self._probability, self._trust = max_length, probability, trust_remote_code
        self._scorer: _Scorer | None = None
        self._warned = False
        if not isinstance(model, str | os.PathLike):
            self._load()
        elif (directory := local_directory(model)) is not None and not (directory / "adapter_config.json").exists():
            check_model_directory(directory)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | Unjudged]:
        """One score for each completion."""
        self._warn(columns)
        if not completions:
            return []
        found = self._load().scores(prompts, completions, self._max_length)
        if not self._probability:
            return found
        return [v if isinstance(v, Unjudged) else torch.tensor(v).double().sigmoid().item() for v in found]

    def check(self) -> None:
        """Loads the model. Raises ModelError where that does not work, before anything is sampled."""
        self._load()

    def close(self) -> None:
        """Lets a model go that was loaded here."""
        if isinstance(self._given, str | os.PathLike):
            self._scorer = None

    def _load(self) -> _Scorer:
        if self._scorer is None:
            model, name = self._given, self._given
            if isinstance(model, str | os.PathLike):
                model = load_score_model(model, trust_remote_code=self._trust)
            else:
                name = model.config._name_or_path
            plain = model.get_base_model() if hasattr(model, "peft_config") else model
            if model is not self._given and not is_reward_model(plain.config) and not hasattr(model, "peft_config"):
                raise ModelError(
                    f"{str(self._given)!r} is a language model: its score head would be random. Train one first with "
                    "`posttrain reward`, or name a reward model."
                )
            if getattr(plain.config, "num_labels", None) != 1:
                raise ModelError(f"{type(plain).__name__} does not give one number: a reward model has num_labels=1")
            tokenizer = self._tokenizer_given
            if tokenizer is None:
                if not name:
                    raise ModelError("the reward model was built in memory: pass its tokenizer, too")
                tokenizer = name
            if isinstance(tokenizer, str | os.PathLike):
                tokenizer = load_tokenizer(tokenizer, trust_remote_code=self._trust)
                prepare_tokenizer(tokenizer)
            settle_pad_token(model, tokenizer)
            self._scorer = _Scorer(model, tokenizer)
        return self._scorer

    def _warn(self, columns: Mapping[str, Any]) -> None:
        known = next((column for column in ANSWER_COLUMNS if column in columns), None)
        if known is not None and not self._warned and os.environ.get("RANK", "0") == "0":
            print(
                f"reward_model: the rows have a column {known!r}. Where an answer can be checked, a checker is exact "
                "and cannot be talked round: `posttrain grade --list` shows them. Use the reward model for what they "
                "cannot tell, or beside one."
            )
        self._warned = True


class _Scorer:
    """A model in memory, its tokenizer, and how rows become scores."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.renderer = model.eval(), Renderer(tokenizer)
        try:
            self.learner: ScoreLearner | None = ScoreLearner(model)
            self.learner.release()
        except ModelError:  # an encoder, or more than a head: its own forward on padded rows
            self.learner = None
        self.device = next(model.parameters()).device
        self.tokens = TOKENS_PER_PASS.get(self.device.type, TOKENS_PER_PASS_ELSEWHERE)
        self.positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @torch.no_grad()
    def scores(
        self, prompts: Sequence[Any], completions: Sequence[Any], max_length: int | None
    ) -> list[float | Unjudged]:
        """The score of each completion, and why it has none."""
        rows = self.rows(prompts, completions)
        limit = min(n for n in (max_length, self.positions, 2**31) if n is not None)
        found: list[float | Unjudged] = [
            Unjudged(f"{len(row)} tokens, more than the reward model's {limit}" if len(row) > limit else "an empty row")
            for row in rows
        ]
        fit = [i for i, row in enumerate(rows) if 2 <= len(row) <= limit]
        with torch.autocast(self.device.type, enabled=False):
            values = self._of_forest(rows, fit, prompts) if self.learner is not None else self._of_padded(rows, fit)
        for i, value in values.items():
            found[i] = value
        return found

    def rows(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[list[int]]:
        """The tokens of each prompt with its completion, to the end of the row."""
        rows: dict[int, list[int]] = {}
        texts = [i for i, both in enumerate(zip(prompts, completions)) if all(isinstance(x, str) for x in both)]
        rows.update(zip(texts, self.renderer.texts([prompts[i] + completions[i] for i in texts])))
        chats = [i for i in range(len(completions)) if i not in rows]
        conversations = [
            Conversation(messages=[*_messages(prompts[i], "user"), *_messages(completions[i], "assistant")])
            for i in chats
        ]
        rows.update(zip(chats, self.renderer.rendered(self.renderer.render(conversations))))
        return [rows[i] for i in range(len(completions))]

    def _of_forest(self, rows: Sequence[list[int]], fit: Sequence[int], prompts: Sequence[Any]) -> dict[int, float]:
        assert self.learner is not None
        trees, order = _trees(rows, fit, prompts)
        if not trees:
            return {}
        forest = TokenForest.from_trees(trees)
        values: list[float] = []
        for part in Batch(forest=forest, atom=forest.sequence, units={}).cut(self.tokens):
            scores = self.learner(part.forest.to(self.device)).scores
            values += scores.tolist() if scores is not None else []
        self.learner.release()
        return dict(zip(order, values, strict=True))

    def _of_padded(self, rows: Sequence[list[int]], fit: Sequence[int]) -> dict[int, float]:
        pad = self.model.config.get_text_config().pad_token_id
        waiting = sorted(fit, key=lambda i: len(rows[i]))
        values: dict[int, float] = {}
        while waiting:
            longest = len(rows[waiting[-1]])
            count = max(1, self.tokens // longest)
            mine, waiting = waiting[-count:], waiting[:-count]
            ids = torch.full((len(mine), longest), pad, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for place, i in enumerate(mine):
                ids[place, : len(rows[i])], mask[place, : len(rows[i])] = torch.tensor(rows[i]), 1
            logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
            values |= dict(zip(mine, logits[:, 0].float().tolist()))
        return values


def _messages(content: Any, role: str) -> list[Any]:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    return [content] if isinstance(content, Mapping) else list(content)


def _trees(rows: Sequence[list[int]], fit: Sequence[int], prompts: Sequence[Any]) -> tuple[list[Segment], list[int]]:
    """Rows that follow each other and have the same prompt as one tree; the trees, and which row each leaf is."""
    groups: list[list[int]] = []
    for i in fit:
        if groups and prompts[groups[-1][0]] == prompts[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    trees, order = [], []
    for mine in groups:
        first = rows[mine[0]]
        shared = min(len(rows[i]) - 1 for i in mine)  # a leaf has a token of its own
        shared = min(shared, *(common_prefix(first, rows[i]) for i in mine))
        if shared:
            trees.append(Segment(tokens=first[:shared], children=[_leaf(rows[i][shared:]) for i in mine]))
        else:
            trees += [_leaf(rows[i]) for i in mine]
        order += mine
    return trees, order


def _leaf(tokens: list[int]) -> Segment:
    return Segment(tokens=tokens, trained=[(len(tokens) - 1, len(tokens))])
