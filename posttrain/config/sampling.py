"""What `posttrain sample` and `posttrain chat` are told: which model, here or on a server, and how it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from posttrain.config.base import Config, option

_WHAT, _DRAW, _HERE, _THERE = "Model and data", "Sampling", "A model on this machine", "A model behind an endpoint"

_OF_ENDPOINTS = (
    "api_key_variable", "concurrency", "timeout_s", "max_retries", "requests_per_minute", "tokens_per_minute",
    "extra_body",
)  # fmt: skip
_OF_MODELS = ("dtype", "use_cpu", "max_rows", "trust_remote_code")


class SamplingFields(Config):
    """The model that answers, and how its tokens are drawn."""

    model: str = option(..., "Directory or name of the model; with endpoint, its name there.", group=_WHAT)
    endpoint: str | None = option(
        None, "Address of an OpenAI-compatible server, such as http://localhost:8000/v1.", group=_WHAT
    )
    system_message: str | None = option(None, "A system message before each conversation.", group=_WHAT)
    max_tokens: int = option(256, "Tokens of an answer at most.", group=_DRAW, ge=1)
    temperature: float = option(1.0, "0 takes the likeliest token.", group=_DRAW, ge=0)
    top_p: float = option(1.0, "Draw from the likeliest tokens that make up this much.", group=_DRAW, gt=0, le=1)
    top_k: int = option(0, "Draw from so many of the likeliest tokens; 0 = all.", group=_DRAW, ge=0)
    min_p: float = option(
        0.0, "Draw from tokens at least this likely, relative to the likeliest.", group=_DRAW, ge=0, le=1
    )
    repetition_penalty: float = option(1.0, "Above 1 makes tokens that occurred less likely.", group=_DRAW, gt=0)
    stop: list[str] = option([], "Texts that end an answer and are cut off.", group=_DRAW)
    seed: int = option(0, "Seed that draws the answers.", group=_DRAW, ge=0)
    dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None, "Precision of the weights; none = as saved on a GPU, float32 elsewhere.", group=_HERE
    )
    use_cpu: bool = option(False, "Leave a GPU alone.", group=_HERE)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_HERE)
    api_key_variable: str = option(
        "OPENAI_API_KEY", "Environment variable with the server's key; it is written nowhere.", group=_THERE
    )
    timeout_s: float = option(120.0, "Seconds for one request.", group=_THERE, gt=0)
    max_retries: int = option(6, "Repetitions of a request after 429, 5xx and broken connections.", group=_THERE, ge=0)
    extra_body: dict[str, Any] = option(
        {}, "Fields added to each request, such as {reasoning_effort: low}; null takes one out.", group=_THERE
    )

    @classmethod
    def parse_field(cls, name: str, text: str) -> Any:
        """As for every field, but a stop text is what was written: `###` and `User:` mean something else in YAML."""
        if name == "stop" and not text.startswith("["):
            return [text]
        return super().parse_field(name, text)

    def endpoints(self) -> list[str | None]:
        """Where each model is asked; None is here."""
        return [self.endpoint]

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.model.strip():
            yield "model", "model is empty; name a directory, a model of the hub, or with endpoint a model served there"
        if not all(self.stop):
            yield "stop", "stop has an empty text, which ends every answer at once"
        for names, missing, word in (
            (_OF_ENDPOINTS, all(where is None for where in self.endpoints()), "together with endpoint"),
            (_OF_MODELS, None not in self.endpoints(), "without endpoint"),
        ):
            for name in sorted(self.model_fields_set & set(names) if missing else ()):
                yield name, f"{name} has an effect only {word}"

    def sampling(self) -> dict[str, Any]:
        """The arguments of SamplingParams."""
        names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {**{name: getattr(self, name) for name in names}, "stop": tuple(self.stop)}


class SampleCommand(SamplingFields):
    """`posttrain sample`: a file of prompts to a file of answers."""

    prompts: str = option(..., "File of prompts (.jsonl, .json, .parquet, .csv).", group=_WHAT)
    output: str = option("answers.jsonl", "File that the answers are written to (.jsonl).", group=_WHAT)
    count: int = option(1, "Answers to each prompt.", group=_DRAW, ge=1)
    max_rows: int | None = option(None, "Answers drawn at once; none = what fits.", group=_HERE, ge=1)
    concurrency: int = option(8, "Requests under way at once.", group=_THERE, ge=1)
    requests_per_minute: float | None = option(None, "At most so many, evenly spread.", group=_THERE, gt=0)
    tokens_per_minute: float | None = option(None, "The same in tokens, prompts included.", group=_THERE, gt=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.prompts.strip():
            yield "prompts", "prompts is empty; name a file"
        if not self.output.endswith(".jsonl"):
            yield "output", f"output={self.output!r} must end in .jsonl: the answers are JSON, one a line"


class ChatCommand(SamplingFields):
    """`posttrain chat`: a conversation in the terminal, with one model or two."""

    vs: str | None = option(None, "A second model that answers the same messages.", group=_WHAT)
    vs_endpoint: str | None = option(None, "Where the second model is served; none = here.", group=_WHAT)
    max_tokens: int = option(512, "Tokens of an answer at most.", group=_DRAW, ge=1)
    temperature: float = option(0.7, "0 takes the likeliest token.", group=_DRAW, ge=0)

    def endpoints(self) -> list[str | None]:
        return [self.endpoint, *([self.vs_endpoint] if self.vs is not None else [])]

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.vs_endpoint is not None and self.vs is None:
            yield "vs_endpoint", "vs_endpoint has an effect only together with vs, the model's name there"
