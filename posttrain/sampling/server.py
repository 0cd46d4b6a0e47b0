"""A server with OpenAI's interface: requests that are paced, repeated where that helps, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from posttrain.errors import ConfigError, SamplingError
from posttrain.sampling.pacing import Pace

_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 600.0  # a server that wants more is not waited for
_RETRIES_OF_A_STRANGER = 2  # a server that never answered is more likely a wrong address than a busy one
_ROUTES = ("/chat/completions", "/completions", "/models")
_WORDS = 400  # characters of a server's own words that an error repeats


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What was asked of a server so far, and what it counted."""

    requests: int = 0  # each try counts
    retries: int = 0
    failures: int = 0  # prompts without an answer
    prompt_tokens: int = 0
    completion_tokens: int = 0


class RequestError(SamplingError):
    """A request that was not answered. `hopeless`: no other request to this server will fare better."""

    def __init__(self, words: str, *, status: int | None = None, hopeless: bool = False) -> None:
        super().__init__(words)
        self.status = status
        self.hopeless = hopeless


class _Passing(Exception):  # noqa: N818, it is caught here, where the request is repeated
    """A failure that may pass. `wait_s`: how long the server asks to be left alone."""

    def __init__(self, words: str, *, wait_s: float | None = None, unreached: bool = False) -> None:
        super().__init__(words)
        self.words, self.wait_s, self.unreached = words, wait_s, unreached


class Server:
    """Where requests go. The key stands in their headers and nowhere else: not in errors, logs or `repr`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        api_key_variable: str,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
    ) -> None:
        self._base, self._query = _read_url(url)
        self.address = str(self._base)
        self._variable = api_key_variable
        self._key = _read_key(api_key if api_key is not None else os.environ.get(api_key_variable, ""))
        self._timeout_s, self._max_retries, self._backoff_s = timeout_s, max_retries, backoff_s
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self._usage = Usage()
        self._lock = threading.Lock()
        self._met = False  # it has answered something

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        return self._usage

    def count(self, **more: int) -> None:
        """Adds to the counts."""
        with self._lock:
            self._usage = replace(self._usage, **{name: getattr(self._usage, name) + n for name, n in more.items()})

    def client(self) -> httpx2.AsyncClient:
        """A client for one event loop."""
        return httpx2.AsyncClient(**self._options())

    async def models(self, client: httpx2.AsyncClient) -> list[Mapping[str, Any]]:
        """What the server says it serves; empty where it does not say. Raises RequestError where there is none."""
        for attempt in range(_RETRIES_OF_A_STRANGER + 1):
            try:
                response = await client.get(f"{self.address}/models", timeout=min(self._timeout_s, 10))
                self._met = True
                return [model for model in response.json()["data"] if isinstance(model, Mapping)]
            except httpx2.ConnectError as error:
                if attempt == _RETRIES_OF_A_STRANGER:
                    raise self._gone(_connection_words(error)) from None
                await asyncio.sleep(self._delay(attempt, None))
            except (httpx2.TransportError, ValueError, KeyError, TypeError):
                break  # the requests themselves will tell
        return []

    async def post(
        self, client: httpx2.AsyncClient, route: str, body: Mapping[str, Any], *, tokens: int
    ) -> dict[str, Any]:
        """The JSON that answers the request. `tokens` is what it will cost, as far as one can know.

        Repeats it after 429, 5xx, timeouts and broken connections, waiting longer each time and at least as long as
        Retry-After says. Raises RequestError for what is refused, and after the last repetition.
        """
        attempt = 0
        while True:
            await self._requests.turn()
            await self._tokens.turn(tokens)
            self.count(requests=1, retries=1 if attempt else 0)
            try:
                try:
                    async with asyncio.timeout(self._timeout_s):  # the client's own starts anew with every byte
                        response = await client.post(f"{self.address}{route}", json=body)
                except (TimeoutError, httpx2.TransportError) as error:
                    raise self._broken(error) from None
                answer = self._read(response)
            except _Passing as failure:
                await asyncio.sleep(self._next_wait(failure, attempt))
                attempt += 1
                continue
            used = answer.get("usage")
            if isinstance(used, Mapping) and isinstance(total := used.get("total_tokens"), int):
                self._tokens.correct(total - tokens)
            return answer

    def stream(self, route: str, body: Mapping[str, Any], *, tokens: int) -> Iterator[dict[str, Any]]:
        """The events that answer the request, as they come. It is repeated until the first of them, then no more."""
        attempt = 0
        with httpx2.Client(**self._options()) as client:
            while True:
                self._requests.blocking_turn()
                self._tokens.blocking_turn(tokens)
                self.count(requests=1, retries=1 if attempt else 0)
                begun = False
                try:
                    with client.stream("POST", f"{self.address}{route}", json={**body, "stream": True}) as response:
                        if response.status_code >= 300:
                            response.read()
                            self._read(response)
                        self._met = True
                        for event in self._events(response):
                            begun = True
                            yield event
                    return
                except httpx2.TransportError as error:
                    failure = self._broken(error)
                except _Passing as passing:
                    failure = passing
                if begun:
                    raise RequestError(f"{self.address} broke off in the middle of its answer: {failure.words}.")
                time.sleep(self._next_wait(failure, attempt))
                attempt += 1

    def _events(self, response: httpx2.Response) -> Iterator[dict[str, Any]]:
        """The JSON after each `data:`, up to `[DONE]`. An error among them is raised."""
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue
            text = line.removeprefix("data:").strip()
            if text == "[DONE]":
                return
            try:
                event = json.loads(text)
            except json.JSONDecodeError:
                raise _Passing(f"it streams what is no JSON: {self._clean(text)!r}") from None
            if isinstance(event, dict):
                if event.get("error"):
                    raise RequestError(f"{self.address}: {self._clean(_own_words(event))}")
                yield event

    def _options(self) -> dict[str, Any]:
        return {
            "headers": {"Authorization": f"Bearer {self._key}"} if self._key else {},
            "params": self._query,
            "timeout": httpx2.Timeout(self._timeout_s, connect=min(self._timeout_s, 10), pool=None),
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            "verify": self._base.scheme == "https",  # reading the certificates takes longer than many an answer
            # A proxy of the environment has no business between this machine and itself.
            "trust_env": self._base.host not in ("localhost", "127.0.0.1", "::1"),
        }

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        """The answer's JSON. Raises _Passing for what may pass, RequestError for what will not."""
        self._met = True
        status = response.status_code
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if status < 300 and isinstance(answer, dict) and not answer.get("error"):
            return answer
        words = self._clean(_own_words(answer) or response.text)
        if status < 300:
            if not isinstance(answer, dict):
                raise _Passing(f"it answered what is no JSON object: {words!r}")
            error = answer["error"]
            code = error.get("code") if isinstance(error, Mapping) else None
            status = code if isinstance(code, int) and code >= 400 else 500
        passes = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
        if passes and "insufficient_quota" not in response.text:
            raise _Passing(f"it answered {status}: {words}", wait_s=_retry_after(response.headers))
        hints = {
            401: self._key_hint(),
            403: self._key_hint(),
            404: " Look at the model's name, and at the address, which usually ends in /v1.",
        }
        moved = " It is somewhere else: give that address." if status < 400 else ""
        raise RequestError(
            f"{self.address} answered {status}: {words or 'without a word'}{hints.get(status, moved)}",
            status=status,
            hopeless=status in (401, 402, 403, 404, 405) or status < 400 or status == 429,
        )

    def _key_hint(self) -> str:
        if self._key:
            return " The key that was sent is not accepted."
        return f" No key was sent: set {self._variable} in the environment, or give api_key."

    def _broken(self, error: Exception) -> _Passing:
        if isinstance(error, TimeoutError | httpx2.ReadTimeout | httpx2.WriteTimeout):
            return _Passing(f"there was no answer within {self._timeout_s:g} s")
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return _Passing(_connection_words(error), unreached=True)
        return _Passing(f"the connection broke ({self._clean(str(error)) or type(error).__name__})")

    def _gone(self, words: str) -> RequestError:
        return RequestError(
            f"no server answers at {self.address} ({words}). Is it running, and is this its address?", hopeless=True
        )

    def _next_wait(self, failure: _Passing, attempt: int) -> float:
        """The seconds until the request is repeated. Raises RequestError where it is not."""
        if failure.unreached and not self._met and attempt >= min(_RETRIES_OF_A_STRANGER, self._max_retries):
            raise self._gone(failure.words)
        if attempt >= self._max_retries:
            tries = f"after {attempt + 1} tries" if attempt else "and max_retries is 0"
            raise RequestError(f"{self.address} does not answer, {tries}: {failure.words}")
        if failure.wait_s is not None and failure.wait_s > _LONGEST_RETRY_AFTER_S:
            raise RequestError(
                f"{self.address} wants to be asked again in {failure.wait_s:,.0f} s only: {failure.words}"
            )
        if failure.wait_s:
            self._requests.hold(failure.wait_s)  # it means every request, not this one only
        return self._delay(attempt, failure.wait_s)

    def _delay(self, attempt: int, wait_s: float | None) -> float:
        backoff = min(self._backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
        # Part of it by chance, so that requests that failed together do not come again together.
        return max(wait_s or 0.0, backoff / 2) + random.uniform(0, backoff / 2)

    def _clean(self, words: str) -> str:
        """What a server said, on one line, not too long, and without the key if it repeats it."""
        line = " ".join((words.replace(self._key, "***") if self._key else words).split())
        return line if len(line) <= _WORDS else line[:_WORDS] + " ..."


def _read_url(url: str) -> tuple[httpx2.URL, dict[str, str]]:
    """The address that routes are put behind, and the query that goes with every request."""
    try:
        read = httpx2.URL(url.strip())
    except httpx2.InvalidURL as error:
        raise SamplingError(f"the endpoint's address is no URL ({error}). Write it like {_EXAMPLE}.") from None
    if read.userinfo:
        raise SamplingError(f"the endpoint's address has a user name in it: leave that out, as in {_EXAMPLE}.")
    if read.scheme not in ("http", "https") or not read.host:
        raise SamplingError(f"the endpoint {url!r} is no http or https address. Write it like {_EXAMPLE}.")
    path = read.path.rstrip("/")
    for route in _ROUTES:
        path = path.removesuffix(route)
    base = read.copy_with(path=path or "/v1", query=None, fragment=None)
    return base, dict(read.params)


_EXAMPLE = "http://localhost:8000/v1"


def _read_key(key: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("the API key has characters that no key has (spaces, line breaks, accents): copy it again.")
    return key


def _own_words(answer: Any) -> str:
    """What a JSON answer says went wrong, in the places where servers say it."""
    if not isinstance(answer, Mapping):
        return ""
    for said in (answer.get("error"), answer.get("message"), answer.get("detail")):
        if isinstance(said, Mapping):
            said = said.get("message") or json.dumps(said, ensure_ascii=False)
        if said:
            return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    text = headers.get("retry-after", "").strip()
    with contextlib.suppress(ValueError):
        return max(float(text), 0.0) if math.isfinite(float(text)) else None
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    return None


def _connection_words(error: Exception) -> str:
    return str(error) or type(error).__name__
