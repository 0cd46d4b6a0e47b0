"""Tokens and what is trained of them, against TRL's own preparation of the same random rows."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from chats import assistant, user

from posttrain.data.trees import TreeSet, preference_trees, sft_trees

WORDS = ["the", "capital", "of", "France", "apples", "and", "nine", "who", "are", "you", "wolf", "?", "12", "+"]


@pytest.fixture(scope="module")
def trl() -> Any:
    """TRL's two methods that prepare a dataset."""
    pytest.importorskip("trl", reason="trl is not installed (it is in the `test` extra)")
    from trl import DPOConfig, SFTConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_trainer import SFTTrainer

    datasets.disable_progress_bars()

    def sft(rows: Any, tokenizer: Any, completion_only: bool = False, **options: Any) -> list[Any]:
        trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=completion_only)
        config = SFTConfig(output_dir="unused", bf16=False, report_to="none", **options)
        data = datasets.Dataset.from_list(rows)
        found = SFTTrainer._prepare_dataset(trainer, data, tokenizer, config, False, None, "rows")
        return [[(t, label != -100 and i > 0) for i, (t, label) in enumerate(zip(r["input_ids"], r["labels"]))]
                for r in found]  # fmt: skip

    def dpo(rows: Any, tokenizer: Any) -> list[Any]:
        config = DPOConfig(output_dir="unused", bf16=False, report_to="none")
        trainer, data = SimpleNamespace(_tokenizer=tokenizer), datasets.Dataset.from_list(rows)
        found = DPOTrainer._prepare_dataset(trainer, data, tokenizer, config, "rows")
        return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in found]

    return SimpleNamespace(sft=sft, dpo=dpo)


def marked(found: TreeSet) -> list[Any]:
    return [
        [(token, any(b <= i < e for b, e in tree.trained)) for i, token in enumerate(tree.tokens)]
        for tree in found.trees
    ]


def words(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 12))) + draw.choice(["", " ", "\n"])


def make(kind: str, count: int = 60) -> list[dict[str, Any]]:
    draw = random.Random(7)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        a, b, c = words(draw), draw.choice(["", " "]) + words(draw), words(draw) + "!"
        rows.append(
            {
                "text": {"text": a},
                "completion": {"prompt": a, "completion": b},
                "chat": {"messages": [user(a), assistant(b), user(c), assistant(a)]},
                "chat completion": {"prompt": [user(a)], "completion": [assistant(b)]},
                "pair": {"prompt": a, "chosen": b, "rejected": c},
                "implicit pair": {"chosen": f"{a} {b}", "rejected": f"{a} {c}"},
                "chat pair": {"prompt": [user(a)], "chosen": [assistant(b)], "rejected": [assistant(c)]},
                "implicit chat pair": {"chosen": [user(a), assistant(b)], "rejected": [user(a), assistant(c)]},
            }[kind]
        )
    return rows


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("text", {}, {}),
        ("completion", {}, {"completion_only": True}),
        ("completion", {"completion_only_loss": False}, {}),
        ("chat", {"assistant_only_loss": False}, {}),
        ("chat completion", {"assistant_only_loss": False}, {"completion_only": True}),
    ],
)
@pytest.mark.parametrize("cut", [{"max_length": 1024}, {"max_length": 16},
                                 {"max_length": 16, "truncation_mode": "keep_end"}])  # fmt: skip
def test_sft_rows(chat_tokenizer: Any, trl: Any, kind: str, ours: Any, theirs: Any, cut: Any) -> None:
    rows = make(kind)
    expected = [row for row in trl.sft(rows, chat_tokenizer, **theirs, **cut) if any(t for _, t in row)]
    assert marked(sft_trees(rows, chat_tokenizer, **ours, **cut)) == expected


@pytest.mark.parametrize("kind", ["pair", "implicit pair", "chat pair", "implicit chat pair"])
def test_preference_rows(chat_tokenizer: Any, trl: Any, kind: str) -> None:
    rows = make(kind)
    found = preference_trees(rows, chat_tokenizer, max_length=None, train_after_stop=True)
    assert [(t.tokens, *(leaf.tokens for leaf in t.children)) for t in found.trees] == trl.dpo(rows, chat_tokenizer)
    # Without the line break that the template writes after the end of a turn:
    stopped = preference_trees(rows, chat_tokenizer, max_length=None)
    newline = [] if kind in ("pair", "implicit pair") else chat_tokenizer("\n")["input_ids"]
    for whole, tree in zip(found.trees, stopped.trees, strict=True):
        assert [list(leaf.tokens) + newline for leaf in tree.children] == [leaf.tokens for leaf in whole.children]
