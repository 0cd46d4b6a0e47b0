"""An OpenAI-compatible server, asked many things at once; it is a real one, on this machine, that fails on demand."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from chat_server import ChatServer, garbage, hang_up, slow, status, trickle

from posttrain.errors import ConfigError, DataError, SamplingError
from posttrain.sampling.endpoint import EndpointSampler
from posttrain.sampling.wire import request_seed
from posttrain.types import Sampler, SamplingParams

PARAMS = SamplingParams(max_tokens=20)
KEY = "sk-tests-0123456789"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as started:
        yield started


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def sampler(server: ChatServer, **options: Any) -> EndpointSampler:
    return EndpointSampler(server.url, "tiny", **{"backoff_s": 0.01, **options})


# What is asked and what comes back


def test_groups_keep_the_order_of_the_prompts_and_of_the_choices(server: ChatServer) -> None:
    server.delay_s = 0.01
    made: Sampler = sampler(server)
    seen: list[tuple[int, int]] = []
    prompts = [f"question {number}" for number in range(12)]
    groups = made.sample(prompts, PARAMS, count=3, seed=4, progress=lambda *at: seen.append(at))
    for index, (prompt, group) in enumerate(zip(prompts, groups)):
        first = request_seed(4, index, 0)
        assert [c.text for c in group] == [f"{prompt} -> {first + number}" for number in range(3)]
        assert {(c.finish_reason, c.tokens, c.prompt_tokens) for c in group} == {("stop", None, 5)}
    assert seen == [(3 * n, 36) for n in range(1, 13)]


def test_each_group_is_told_as_soon_as_it_is_whole(server: ChatServer) -> None:
    kept: dict[int, list[str]] = {}
    server.failures.append(status(400))  # one of the prompts stays without an answer
    made = sampler(
        server, concurrency=1, on_failure=lambda index, error: None,
        on_group=lambda index, group: kept.update({index: [c.text for c in group]}),
    )  # fmt: skip
    asked = [len(kept)]
    groups = made.sample(["a", "b", "c"], PARAMS, count=1, progress=lambda *at: asked.append(len(kept)))
    assert asked == [0, 0, 1, 2]
    assert kept == {index: [c.text for c in group] for index, group in enumerate(groups) if group}


def test_a_seed_follows_the_key_and_not_the_place(server: ChatServer) -> None:
    made = sampler(server)
    both = made.sample(["a", "b"], PARAMS, keys=[7, 9])
    assert made.sample(["b"], PARAMS, keys=[9]) == both[1:]
    assert made.sample(["b"], PARAMS, keys=[9], seed=1) != both[1:]


def test_what_is_sent(server: ChatServer) -> None:
    params = SamplingParams(max_tokens=9, temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, stop=("\n", "#"))
    made = sampler(server, system_message="Be brief.", extra_body={"user": "me", "seed": None})
    made.sample([[{"role": "user", "content": "hello"}]], params)
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies[0] == {
        "model": "tiny", "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "top_k": 3, "min_p": 0.1, "user": "me",
        "stop": ["\n", "#"],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
    }  # fmt: skip
    assert "authorization" not in server.headers[0]


def test_a_server_with_defaults_of_its_own_is_told_the_neutral_values() -> None:
    """vLLM takes what is left open from the model's generation_config.json: a top-k of 20, say."""
    with ChatServer(owned_by="vllm") as vllm, ChatServer() as other:
        for server in (vllm, other):
            sampler(server).sample(["hello"], PARAMS)
        neutral = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        assert neutral.items() <= vllm.bodies[0].items()
        assert not neutral.keys() & other.bodies[0].keys()


def test_greedy_is_asked_once(server: ChatServer) -> None:
    [group] = sampler(server).sample(["hello"], SamplingParams(temperature=0), count=3)
    assert len(group) == 3
    assert len(server.bodies) == 1
    assert "n" not in server.bodies[0]


def test_a_server_without_n_is_asked_one_at_a_time(server: ChatServer) -> None:
    server.takes_n = False
    made = sampler(server)
    first, second = made.sample(["a", "b"], PARAMS, count=3, seed=2)
    assert [c.text for c in second] == [f"b -> {request_seed(2, 1, number)}" for number in range(3)]
    before = len(server.bodies)
    made.sample(["c"], PARAMS, count=3)
    assert [body.get("n") for body in server.bodies[before:]] == [None] * 3  # it was learned


def test_a_server_that_ignores_n_gives_full_groups(server: ChatServer) -> None:
    text = server.text
    made = sampler(server, extra_body={"n": None})
    [group] = made.sample(["a"], PARAMS, count=3)
    assert [c.text for c in group] == [text("a", request_seed(0, 0, number)) for number in range(3)]


def test_newer_name_for_max_tokens(server: ChatServer) -> None:
    server.takes_max_tokens = False
    made = sampler(server)
    assert len(made.sample(["a", "b"], PARAMS)) == 2
    assert "max_tokens" not in server.bodies[-1]
    assert server.bodies[-1]["max_completion_tokens"] == 20
    assert made.usage.failures == 0


def test_concurrency_is_used_and_kept_to(server: ChatServer) -> None:
    server.delay_s = 0.03
    sampler(server, concurrency=5).sample([str(n) for n in range(30)], PARAMS)
    assert server.most_active == 5


def test_it_works_inside_a_running_loop_and_again_after(server: ChatServer) -> None:
    made = sampler(server)

    async def inside() -> list[Any]:
        return made.sample(["a"], PARAMS)

    assert asyncio.run(inside()) == made.sample(["a"], PARAMS)

    async def failing() -> None:
        made.sample([[]], PARAMS)

    with pytest.raises(DataError):
        asyncio.run(failing())


def test_no_prompts_ask_nothing(server: ChatServer) -> None:
    assert sampler(server).sample([], PARAMS) == []
    assert server.bodies == []


def test_usage_counts(server: ChatServer) -> None:
    server.text = lambda prompt, seed: "four"
    server.failures.append(status(503))
    made = sampler(server)
    made.sample(["a", "b"], PARAMS, count=2)
    usage = made.usage
    assert (usage.requests, usage.retries, usage.failures) == (3, 1, 0)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 16)


# Token ids


def test_token_ids_come_from_both_routes() -> None:
    with ChatServer(tells_ids=True) as server:
        server.text = lambda prompt, seed: "ab"
        made = sampler(server, token_ids=True)
        assert made.gives_tokens
        groups = made.sample([[1, 2, 3], "hello"], PARAMS, count=2)
        assert {(c.tokens, c.logprobs) for group in groups for c in group} == {((97, 98), (-0.5, -0.5))}
        by_path = dict(zip(server.paths, server.bodies))
        assert by_path["/v1/completions"]["prompt"] == [1, 2, 3]
        assert by_path["/v1/completions"]["logprobs"] == 1
        assert by_path["/v1/chat/completions"]["logprobs"] is True
        assert by_path["/v1/completions"]["top_k"] == -1


def test_without_ids_a_sampler_that_promised_them_stops(server: ChatServer) -> None:
    told: list[int] = []
    made = sampler(server, token_ids=True, on_failure=lambda index, error: told.append(index))
    with pytest.raises(SamplingError, match="returned 0 token ids"):
        made.sample(["a"], PARAMS)
    assert told == []
    assert not sampler(server).gives_tokens
    with pytest.raises(ConfigError, match="temperature 1"):
        made.sample(["a"], SamplingParams(temperature=0.7))


# Failures


@pytest.mark.parametrize(
    "failure",
    [status(429), status(500), status(503), status(529), garbage, hang_up, slow(0.6)],
    ids=["429", "500", "503", "529", "garbage", "closed", "slow"],
)
def test_what_passes_is_tried_again(server: ChatServer, failure: Any) -> None:
    server.failures.extend([failure, failure])
    made = sampler(server, timeout_s=0.2)
    [[completion]] = made.sample(["a"], PARAMS)
    assert completion.text == f"a -> {request_seed(0, 0, 0)}"
    assert (made.usage.requests, made.usage.retries) == (3, 2)


def test_a_timeout_is_for_the_whole_request(server: ChatServer) -> None:
    """Bytes that keep coming, as the white space of some proxies does, do not put it off."""
    server.failures.append(trickle(6.0))
    before = time.monotonic()
    sampler(server, timeout_s=0.3).sample(["a"], PARAMS)
    assert 0.3 <= time.monotonic() - before < 4


def test_waits_double_from_the_backoff(server: ChatServer) -> None:
    server.failures.extend([status(500)] * 3)
    sampler(server, backoff_s=0.1).sample(["a"], PARAMS)
    waits = [after - before for before, after in zip(server.times, server.times[1:])]
    for wait, most in zip(waits, (0.1, 0.2, 0.4)):
        assert most / 2 <= wait < most + 0.15


def test_retry_after_holds_every_request(server: ChatServer) -> None:
    server.failures.append(status(429, retry_after="0.4"))
    sampler(server, concurrency=1).sample(["a", "b", "c"], PARAMS)
    assert server.times[1] - server.times[0] >= 0.4
    server.times.clear()
    server.failures.append(status(429, retry_after="1"))
    server.text = lambda prompt, seed: time.sleep(0.1) or "late"  # type: ignore[func-returns-value]
    sampler(server, concurrency=3).sample(["a"] * 6, PARAMS)
    late = sorted(server.times)[3:]  # three were under way
    assert len(late) == 4
    assert min(late) - min(server.times) >= 1.0


def test_a_retry_after_as_a_date_and_one_that_is_too_long(server: ChatServer) -> None:
    server.failures.append(status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"))
    sampler(server).sample(["a"], PARAMS)
    server.failures.append(status(429, "come back tomorrow", retry_after="86400"))
    with pytest.raises(SamplingError, match="86,400 s only: it answered 429: come back tomorrow"):
        sampler(server).sample(["a"], PARAMS)


def test_a_prompt_without_an_answer_is_named_and_never_answered(server: ChatServer) -> None:
    server.failures.extend([status(500, "out of order")] * 9)
    with pytest.raises(SamplingError, match=r"prompt 0 \('why\?'\): .* after 3 tries: it answered 500: out of order"):
        sampler(server, max_retries=2, concurrency=1).sample(["why?", "how?"], PARAMS)


def test_with_on_failure_the_others_go_on(server: ChatServer) -> None:
    server.refuse = lambda body: "too long" if body["messages"][-1]["content"] == "b" else None
    told: list[tuple[int, str]] = []
    seen: list[tuple[int, int]] = []
    made = sampler(server, on_failure=lambda index, error: told.append((index, str(error))))
    groups = made.sample(["a", "b", "c"], PARAMS, count=2, progress=lambda *at: seen.append(at))
    assert [len(group) for group in groups] == [2, 0, 2]
    assert told == [(1, f"{server.url} answered 400: too long")]
    assert seen[-1] == (6, 6)
    assert made.usage.failures == 1


@pytest.mark.parametrize(
    ("finish", "words"), [("content_filter", "its filter withheld"), ("abort", "broke off"), ("tool_calls", "a tool")]
)
def test_a_withheld_answer_is_a_failure(server: ChatServer, finish: str, words: str) -> None:
    message = {"content": None, "tool_calls": [{"id": 1}] if finish == "tool_calls" else None}
    answer = {"choices": [{"finish_reason": finish, "message": message}]}
    server.failures.append(lambda handler: handler.reply(200, answer))
    with pytest.raises(SamplingError, match=words):
        sampler(server).sample(["a"], PARAMS)


def test_thinking_to_the_end_is_an_empty_answer_cut_by_its_length(server: ChatServer) -> None:
    answer = {"choices": [{"finish_reason": "length", "message": {"content": None}}]}
    server.failures.append(lambda handler: handler.reply(200, answer))
    [[completion]] = sampler(server).sample(["a"], PARAMS)
    assert (completion.text, completion.finish_reason, completion.prompt_tokens) == ("", "length", None)


def test_an_error_in_an_answer_of_200_is_no_answer(server: ChatServer) -> None:
    server.failures.append(lambda handler: handler.reply(200, {"error": {"message": "overloaded", "code": 503}}))
    made = sampler(server)
    made.sample(["a"], PARAMS)
    assert made.usage.retries == 1
    server.failures.append(lambda handler: handler.reply(200, {"error": {"message": "bad words", "code": 400}}))
    with pytest.raises(SamplingError, match="bad words"):
        made.sample(["a"], PARAMS)


@pytest.mark.parametrize("code", [400, 403, 404, 422])
def test_other_refusals_are_told_at_once_in_the_servers_words(server: ChatServer, code: int) -> None:
    server.failures.append(status(code, "we do not do that"))
    made = sampler(server)
    with pytest.raises(SamplingError, match=f"answered {code}: we do not do that"):
        made.sample(["a"], PARAMS)
    assert made.usage.requests == 1


def test_an_exhausted_quota_is_not_waited_for(server: ChatServer) -> None:
    answer = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    server.failures.append(lambda handler: handler.reply(429, answer))
    with pytest.raises(SamplingError, match="exceeded your quota"):
        sampler(server).sample(["a"], PARAMS)


def test_a_wrong_model_is_met_with_the_right_ones() -> None:
    with ChatServer(served=("qwen3-8b", "llama-3")) as server:
        made = EndpointSampler(server.url, "qwen-8b", on_failure=lambda index, error: None)
        with pytest.raises(SamplingError, match=r"does not exist.*did you mean 'qwen3-8b'.*qwen3-8b, llama-3"):
            made.sample(["a"], PARAMS)


def test_no_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    made = EndpointSampler(f"http://127.0.0.1:{port}", "tiny", backoff_s=0.01)
    with pytest.raises(SamplingError, match=rf"no server answers at http://127.0.0.1:{port}/v1 .*Is it running"):
        made.sample(["a"], PARAMS)
    with pytest.raises(SamplingError, match="no server answers"):
        list(made.stream("a", PARAMS))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "", "not a url", "http://me:pw@host/v1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SamplingError, match=r"Write it like|as in") as caught:
        EndpointSampler(url, "tiny")
    assert "pw" not in str(caught.value)


def test_the_address_may_be_written_in_several_ways(server: ChatServer) -> None:
    plain = server.url.removesuffix("/v1")
    for url in (plain, f"{plain}/", f"{server.url}/", f"{server.url}/chat/completions", f"{server.url}?version=2"):
        EndpointSampler(url, "tiny").sample(["a"], PARAMS)
    assert server.paths == ["/v1/chat/completions"] * 4 + ["/v1/chat/completions?version=2"]


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 0}, {"max_retries": -1}, {"timeout_s": 0}, {"requests_per_minute": 0}, {"tokens_per_minute": -1}],
)
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        EndpointSampler("http://localhost:1", "tiny", **options)


@pytest.mark.parametrize("prompt", [[], [{"role": "user", "content": "a"}, 3], 5])
def test_prompts_that_are_none(server: ChatServer, prompt: Any) -> None:
    with pytest.raises((DataError, TypeError)):
        sampler(server).sample([prompt], PARAMS)
    with pytest.raises(DataError, match="system message"):
        sampler(server, system_message="b").sample([[{"role": "system", "content": "a"}]], PARAMS)
    assert server.bodies == []


def test_ctrl_c_ends_the_requests(server: ChatServer) -> None:
    server.delay_s = 5
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), 2))
    timer.start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sampler(server).sample(["a", "b"], PARAMS)
    assert time.monotonic() - before < 3


# Rates


def test_requests_per_minute_are_spread_evenly(server: ChatServer) -> None:
    sampler(server, requests_per_minute=600).sample(["a"] * 5, PARAMS)
    gaps = [after - before for before, after in zip(sorted(server.times), sorted(server.times)[1:])]
    assert min(gaps) > 0.07
    assert server.times[-1] - server.times[0] < 1.5


def test_tokens_per_minute_are_corrected_by_what_was_used(server: ChatServer) -> None:
    """Each request is first reckoned at 1,000 tokens, one second; the answers have 9, a hundredth of one."""
    server.text = lambda prompt, seed: "four"
    before = time.monotonic()
    params = SamplingParams(max_tokens=1000)
    sampler(server, tokens_per_minute=60_000, concurrency=4).sample(["a"] * 6, params)
    assert time.monotonic() - before < 2.5
    server.text = lambda prompt, seed: "x" * 295
    server.times.clear()
    sampler(server, tokens_per_minute=60_000, concurrency=1).sample(["a"] * 3, params)
    assert server.times[-1] - server.times[0] >= 0.55  # twice 300 tokens


# The key


def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ChatServer(key=KEY) as server:
        made = sampler(server, api_key=KEY)
        made.sample(["a"], PARAMS)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        monkeypatch.setenv("MY_KEY", f" {KEY}\n")  # as copied
        sampler(server, api_key_variable="MY_KEY").sample(["a"], PARAMS)

        server.key = "another"
        with pytest.raises(SamplingError, match=r"401.*Incorrect API key.*\*\*\*.*not accepted") as caught:
            made.sample(["a"], PARAMS)
        with pytest.raises(SamplingError, match=r"set OTHER_KEY in the environment"):
            sampler(server, api_key_variable="OTHER_KEY").sample(["a"], PARAMS)
        with pytest.raises(ConfigError, match="copy it again") as refused:
            sampler(server, api_key=f"{KEY}\nX-Other: 1")
    seen = repr(made), str(caught.value), repr(caught.value.__cause__), str(refused.value), caplog.text
    assert KEY not in "".join(seen)


# Streams


def test_a_stream_comes_in_pieces(server: ChatServer) -> None:
    server.text = lambda prompt, seed: f"an answer to {prompt} with {seed}"
    server.failures.append(status(503))
    made = sampler(server)
    pieces = list(made.stream("b c", PARAMS, seed=7))
    assert pieces == ["an ", "answer ", "to ", "b ", "c ", "with ", "7"]
    assert made.usage.retries == 1
    assert "".join(made.stream([1, 2], PARAMS)) == "an answer to 2 tokens with 0"


def test_a_stream_that_is_closed_ends_the_request(server: ChatServer) -> None:
    server.text = lambda prompt, seed: "word " * 1000
    server.piece_s = 0.01
    pieces = sampler(server).stream("a", PARAMS)
    next(pieces)
    pieces.close()
    deadline = time.monotonic() + 3
    while server.active and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.active == 0


def test_a_stream_that_breaks_off_is_an_error(server: ChatServer) -> None:
    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n')
        handler.wfile.flush()
        handler.close_connection = True

    server.failures.append(cut)
    pieces = sampler(server).stream("a", PARAMS)
    assert next(pieces) == "half"
    with pytest.raises(SamplingError, match="broke off in the middle"):
        next(pieces)
    with pytest.raises(SamplingError, match="does not exist"):
        next(EndpointSampler(server.url, "none").stream("a", PARAMS))
