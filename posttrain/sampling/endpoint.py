"""A sampler over a server with OpenAI's interface: for distillation, judging, evaluation, and RL where it tells ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx2

from posttrain.errors import ConfigError, SamplingError, nearest
from posttrain.sampling.server import RequestError, Server, Usage
from posttrain.sampling.waiting import run, together
from posttrain.sampling.wire import completions, estimate, question, request_seed, settings, shown
from posttrain.types import Completion, Prompt, SamplingParams

# Servers that fill what a request leaves open from the model's generation_config.json or from defaults of their own,
# by what they write into `owned_by`: they are told the neutral values, too.
_HAS_OWN_DEFAULTS = ("vllm", "sglang", "llamacpp")
_REFUSES_A_FIELD = (400, 422)


class EndpointSampler:
    """Answers of a model behind an OpenAI-compatible server; a `Sampler`.

    Texts and conversations go to `/chat/completions`, prompts of token ids to `/completions`. `url` is what comes
    before that, `http://localhost:8000/v1`. Without `api_key` the key is read from the environment's
    `api_key_variable`; a server of one's own may need none. `extra_body` is added to each request and wins; a None in
    it takes a field out (`{"seed": None}` for a server that refuses seeds).

    A request is repeated `max_retries` times after 429, 5xx, timeouts and broken connections, with waits that double
    from `backoff_s` and that Retry-After lengthens. A prompt that stays without an answer stops the sampling with a
    SamplingError that names it, or, where there is `on_failure(index, error)`, is told to that and gives an empty
    group; what every prompt would fail at (a wrong key, an unknown model) stops it either way. `on_group(index, group)`
    is told each group as soon as it is whole, so that it can be kept.

    With `token_ids` every completion carries ids and log-probs as vLLM returns them, or a SamplingError is raised.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout_s: float = 120,
        max_retries: int = 6,
        backoff_s: float = 0.5,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        system_message: str | None = None,
        token_ids: bool = False,
        on_failure: Callable[[int, SamplingError], None] | None = None,
        on_group: Callable[[int, list[Completion]], None] | None = None,
    ) -> None:
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("max_retries", max_retries, 0),
            ("backoff_s", backoff_s, 0),
        ):
            if value < least:
                raise ConfigError(f"{name}={value!r} must be at least {least}")
        rates = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, rate in {"timeout_s": timeout_s, **rates}.items():
            if rate is not None and not rate > 0:
                raise ConfigError(f"{name}={rate!r} must be above 0" + (", or None" if name in rates else ""))
        if not model:
            raise ConfigError("which model? Give the name under which the server serves it.")
        self.model = model
        self.on_failure, self.on_group = on_failure, on_group
        self._server = Server(
            url,
            api_key=api_key,
            api_key_variable=api_key_variable,
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        self._concurrency = concurrency
        self._extra = dict(extra_body or {})
        self._system_message = system_message
        self._token_ids = token_ids
        self._served: list[str] | None = None  # the models' names, once the server was asked
        self._has_own_defaults = token_ids  # then it is vLLM or something like it
        self._takes_n = True  # as far as is known
        self._length_name = "max_tokens"

    def __repr__(self) -> str:
        return f"EndpointSampler({self._server.address!r}, {self.model!r})"

    @property
    def gives_tokens(self) -> bool:
        """Whether ids and log-probs were asked for; an answer without them is then an error."""
        return self._token_ids

    @property
    def usage(self) -> Usage:
        """Requests, repetitions and tokens so far, as the server counted them."""
        return self._server.usage

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        count: int = 1,
        seed: int = 0,
        keys: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """A group of `count` completions for each prompt, in order; an empty one where `on_failure` was told.

        Seeds are sent that follow from (seed, the prompt's key, number in the group); what a server makes of them is
        its own affair. At temperature 0 a prompt is asked once and the answer repeated. Works inside a running event
        loop, which it blocks.
        """
        if count < 1:
            raise ConfigError(f"count={count} must be at least 1")
        if keys is not None and len(keys) != len(prompts):
            raise ConfigError(f"{len(keys)} keys for {len(prompts)} prompts: give one to each")
        self._check_params(params)
        asked = [question(prompt, index, self._system_message) for index, prompt in enumerate(prompts)]
        places = range(len(prompts)) if keys is None else keys

        async def work() -> list[list[Completion]]:
            async with self._server.client() as client:
                await self._meet(client)
                turn = asyncio.Semaphore(self._concurrency)
                done = 0

                async def answer(index: int) -> list[Completion]:
                    nonlocal done

                    async def ask(n: int, number: int) -> list[Completion]:
                        async with turn:
                            own_seed = request_seed(seed, places[index], number)
                            return await self._request(client, asked[index], params, n, own_seed)

                    group: list[Completion] = []
                    try:
                        group = await self._group(ask, 1 if params.temperature == 0 else count)
                    except RequestError as error:
                        self._server.count(failures=1)
                        if error.hopeless or self.on_failure is None:
                            asks = shown(prompts[index])
                            raise SamplingError(f"prompt {index} ({asks}): {error}") from None
                        self.on_failure(index, error)
                    group = group * count if len(group) == 1 else group
                    if group and self.on_group is not None:
                        self.on_group(index, group)
                    done += count
                    if progress is not None:
                        progress(done, len(asked) * count)
                    return group

                return await together([answer(index) for index in range(len(asked))])

        return run(work) if asked else []

    def stream(self, prompt: Prompt, params: SamplingParams, *, seed: int = 0) -> Iterator[str]:
        """The pieces of one answer as the server sends them. Closing the iterator ends the request."""
        self._check_params(params)
        route, asked = question(prompt, 0, self._system_message)
        body = self._body(route, asked, params, n=1, seed=seed)
        try:
            for event in self._server.stream(route, body, tokens=estimate(body, params.max_tokens)):
                for choice in event.get("choices") or []:
                    if piece := choice.get("text") or (choice.get("delta") or {}).get("content"):
                        yield str(piece)
        except RequestError as error:
            if not self._adapt(error, body):
                raise
            yield from self.stream(prompt, params, seed=seed)

    async def _meet(self, client: httpx2.AsyncClient) -> None:
        """Asks the server once what it serves, and so finds out whether it is there and what it is."""
        if self._served is None:
            models = await self._server.models(client)
            self._served = [str(model.get("id")) for model in models]
            self._has_own_defaults |= any(model.get("owned_by") in _HAS_OWN_DEFAULTS for model in models)

    async def _group(self, ask: Any, wanted: int) -> list[Completion]:
        """The completions of one prompt: in one request where the server takes `n`, else in several at a time."""
        group: list[Completion] = []
        if wanted > 1 and self._takes_n:
            try:
                group = await ask(wanted, 0)
            except RequestError as error:
                if error.status not in _REFUSES_A_FIELD:
                    raise
                group = await ask(1, 0)  # where n was not what it minded, this says so
            self._takes_n = self._takes_n and len(group) >= wanted
        rest = await together([ask(1, number) for number in range(len(group), wanted)])
        return [*group, *(completion for part in rest for completion in part[:1])][:wanted]

    async def _request(
        self,
        client: httpx2.AsyncClient,
        asked: tuple[str, dict[str, Any]],
        params: SamplingParams,
        n: int,
        seed: int,
    ) -> list[Completion]:
        route, words = asked
        body = self._body(route, words, params, n=n, seed=seed)
        try:
            answer = await self._server.post(client, route, body, tokens=estimate(body, params.max_tokens * n))
        except RequestError as error:
            if self._adapt(error, body):
                return await self._request(client, asked, params, n, seed)
            if error.status == 404 and self._served and self.model not in self._served:
                names = f"{nearest(self.model, self._served)} (it serves {', '.join(self._served[:8])})"
                raise RequestError(f"{error} No model {self.model!r} there{names}.", hopeless=True) from None
            raise
        used = answer.get("usage") or {}
        self._server.count(
            prompt_tokens=used.get("prompt_tokens") or 0, completion_tokens=used.get("completion_tokens") or 0
        )
        return completions(answer, address=self._server.address, token_ids=self._token_ids)

    def _adapt(self, error: RequestError, body: Mapping[str, Any]) -> bool:
        """Whether the same is worth asking in the words that the server has for it."""
        newer = "max_completion_tokens"  # of OpenAI's newer models
        if error.status != 400 or newer not in str(error) or newer in body:
            return False
        self._length_name = newer
        return True

    def _body(
        self, route: str, asked: Mapping[str, Any], params: SamplingParams, *, n: int, seed: int
    ) -> dict[str, Any]:
        how = settings(
            params,
            n=n,
            seed=seed,
            length_name=self._length_name,
            every=self._has_own_defaults,
            token_ids=route if self._token_ids else None,
        )
        body = {"model": self.model, **asked, **how, **self._extra}
        return {name: value for name, value in body.items() if value is not None}

    def _check_params(self, params: SamplingParams) -> None:
        if self._token_ids and params.temperature not in (0, 1):
            raise ConfigError(
                f"temperature={params.temperature} with token_ids=True: the log-probs that a server returns are those"
                " of temperature 1, not of the distribution that is drawn from. Use temperature=1, or the local"
                " sampler."
            )
