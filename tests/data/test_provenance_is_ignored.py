from typing import Any

import pytest

from posttrain.data.prompts import prompt_set
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.rewards.combination import RewardSet

NOTES = {"source": "x.jsonl", "line": 1, "scores": {"length": 1.0}}
ANSWER = [{"role": "assistant", "content": "Two."}]
ASKED = [{"role": "user", "content": "1 + 1?"}]


@pytest.mark.parametrize("notes", [NOTES, '{"source": "x.csv"}'])
def test_training_neither_sees_nor_mentions_where_a_row_came_from(notes: Any, chat_tokenizer: Any) -> None:
    rows = [
        {"messages": ASKED + ANSWER},
        {"prompt": ASKED, "chosen": ANSWER, "rejected": [{"role": "assistant", "content": "Three."}]},
    ]
    for row, read in zip(rows, (sft_trees, preference_trees)):
        plain = read([row], chat_tokenizer, max_length=None)
        noted = read([{**row, "_provenance": notes}], chat_tokenizer, max_length=None)
        assert noted.trees == plain.trees
        assert noted.report.ignored_columns == ()


def test_rewards_are_not_handed_where_a_prompt_came_from(chat_tokenizer: Any) -> None:
    rows = [{"prompt": ASKED, "answer": "2", "_provenance": NOTES}]
    found = prompt_set(rows, chat_tokenizer)
    assert dict(found.prompts[0].columns) == {"answer": "2"}
    assert found.report.columns == ("answer",)
    seen: list[str] = []

    def reward(**columns: Any) -> list[float]:
        seen.extend(columns)
        return [1.0]

    columns = {"answer": ["2"], "_provenance": [NOTES]}
    with RewardSet([reward]) as rewards:
        rewards.check(columns)
        rewards.score(prompts=["?"], completions=["2"], completion_ids=None, columns=columns)
    assert seen == ["prompts", "completions", "answer"]
