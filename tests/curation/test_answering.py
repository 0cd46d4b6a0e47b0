"""Prompts asked of a server: what is told while it works, what it costs, and when it is given up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, status

from posttrain import EndpointSampler
from posttrain.curation import distill
from posttrain.curation.answering import answered
from posttrain.curation.candidates import Answered, Asking, Refused
from posttrain.curation.journal import Journal
from posttrain.curation.rows import Broken
from posttrain.errors import SamplingError
from posttrain.types import SamplingParams


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer(text=lambda prompt, seed: prompt.upper()) as started:
        yield started


def sampler(server: ChatServer, **options: Any) -> EndpointSampler:
    return EndpointSampler(server.url, "tiny", **{"backoff_s": 0.01, **options})


def rows(count: int) -> list[Any]:
    return [{"prompt": f"q{n}", "_provenance": {"source": "p", "line": n + 1}} for n in range(count)]


def test_order_is_kept_and_what_is_no_prompt_stands_where_it_stood(server: ChatServer) -> None:
    data = rows(40)
    data[3] = Broken(source="p", line=4, reason="broken")
    data[20] = {"text": "no prompt", "_provenance": {"source": "p", "line": 21}}
    told: list[int] = []
    how = Asking.of(sampler(server), params=None, progress=told.append)
    found = list(answered(data, how))
    assert [number for number, item in enumerate(found) if isinstance(item, Refused)] == [3, 20]
    said = [item.answers[0].text for item in found if isinstance(item, Answered)]
    assert said == [f"Q{n}" for n in range(40) if n not in (3, 20)]
    assert sum(told) == 38


def test_a_model_is_opened_only_when_something_has_to_be_asked(server: ChatServer, tmp_path: Path) -> None:
    opened: list[int] = []

    def open_it() -> EndpointSampler:
        opened.append(1)
        return sampler(server)

    for _ in range(2):
        with Journal(tmp_path / "a.jsonl", {}) as journal:
            how = Asking(open=open_it, name="tiny", params=SamplingParams(), journal=journal)
            assert len(list(answered(rows(5), how))) == 5
    assert opened == [1]
    assert len(server.bodies) == 5


def test_other_words_at_the_same_place_are_asked_anew(server: ChatServer, tmp_path: Path) -> None:
    changed = rows(3)
    changed[1] = {**changed[1], "prompt": "other"}
    for data in (rows(3), changed):
        with Journal(tmp_path / "a.jsonl", {}) as journal:
            how = Asking(open=lambda: sampler(server), name="tiny", params=SamplingParams(), journal=journal)
            said = [item.answers[0].text for item in answered(data, how) if isinstance(item, Answered)]
    assert said == ["Q0", "OTHER", "Q2"]
    assert [body["messages"][-1]["content"] for body in server.bodies[3:]] == ["other"]


def test_many_failures_in_a_row_end_it_and_what_was_answered_is_kept(server: ChatServer, tmp_path: Path) -> None:
    server.refuse = lambda body: "closed" if int(body["messages"][-1]["content"][1:]) >= 10 else None
    with Journal(tmp_path / "a.jsonl", {}) as journal:
        how = Asking(open=lambda: sampler(server), name="tiny", params=SamplingParams(), journal=journal)
        with pytest.raises(SamplingError, match=r"the last 32 prompts .* such as p:42: .*closed"):
            list(answered(rows(200), how))
        assert journal.rows == 10


def test_a_wrong_key_ends_it_at_once(server: ChatServer) -> None:
    server.key = "sk-right"
    with pytest.raises(SamplingError, match="401"):
        distill(["a", "b"], sampler(server, api_key="sk-wrong"))


def test_what_failed_and_what_was_repeated_costs_too(server: ChatServer) -> None:
    server.failures.extend([status(500), status(400)])
    own: list[str] = []
    made = sampler(server, concurrency=1, on_failure=lambda index, error: own.append("user's"))
    data, card = distill(["a", "b", "c"], made, count=1)
    assert len(data) == 2
    assert (card.counts["requests"], card.counts["retries"], card.counts["failed"]) == (4, 1, 1)
    assert card.counts["prompt tokens"] == 10  # of the two that were answered
    made.sample(["ok"], SamplingParams())
    server.failures.append(status(400))
    made.sample(["bad"], SamplingParams())
    assert own == ["user's"]  # who had set that has it back
