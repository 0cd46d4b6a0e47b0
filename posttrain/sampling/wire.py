"""What is said to a server with OpenAI's interface, and what its answers mean."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from posttrain.errors import DataError
from posttrain.sampling.prompts import prompt_messages
from posttrain.sampling.server import RequestError
from posttrain.types import Completion, Prompt, SamplingParams

_ENDED_BY_LENGTH = ("length", "max_tokens")
_WITHHELD = {
    "content_filter": "its filter withheld the answer",
    "abort": "it broke off the answer",
    "error": "it broke off the answer",
}
_CHARACTERS_A_TOKEN = 4  # for pacing only, until the server has counted


def question(prompt: Prompt, index: int, system_message: str | None) -> tuple[str, dict[str, Any]]:
    """The route and the part of the body that asks. Raises DataError for what is no prompt."""
    if not isinstance(prompt, str) and prompt and all(isinstance(token, int) for token in prompt):
        if system_message is not None:
            raise DataError(f"prompt {index} is token ids, before which no system message can be put.")
        return "/completions", {"prompt": list(prompt)}
    return "/chat/completions", {"messages": prompt_messages(prompt, index, system_message)}


def settings(
    params: SamplingParams, *, n: int, seed: int, length_name: str, every: bool, token_ids: str | None
) -> dict[str, Any]:
    """The part of the body that says how to answer.

    `every` sends the settings that OpenAI itself refuses also where they are neutral. `token_ids`: the route whose
    way of asking for log-probs is meant; None does not ask.
    """
    body: dict[str, Any] = {
        "temperature": params.temperature, "top_p": params.top_p, length_name: params.max_tokens, "seed": seed,
    }  # fmt: skip
    if n > 1:
        body["n"] = n
    if params.stop:
        body["stop"] = list(params.stop)
    for name, value, neutral in (
        ("top_k", params.top_k or -1, -1),
        ("min_p", params.min_p, 0.0),
        ("repetition_penalty", params.repetition_penalty, 1.0),
    ):
        if value != neutral or every:
            body[name] = value
    if token_ids is not None:
        body |= {"return_token_ids": True, "logprobs": 1 if token_ids == "/completions" else True}
    return body


def completions(answer: Mapping[str, Any], *, address: str, token_ids: bool) -> list[Completion]:
    """The answer's choices. Raises RequestError where one is no text, or has no token ids that were asked for."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, Mapping) for choice in choices):
        raise RequestError(f"{address} answered without any choices: is it a chat server?")
    prompt_tokens = (answer.get("usage") or {}).get("prompt_tokens")
    ordered = sorted(choices, key=lambda choice: choice.get("index") or 0)
    return [_completion(choice, prompt_tokens, address, token_ids) for choice in ordered]


def _completion(choice: Mapping[str, Any], prompt_tokens: int | None, address: str, token_ids: bool) -> Completion:
    reason = str(choice.get("finish_reason") or "stop")
    message = choice.get("message") or {}
    text = choice.get("text") if "message" not in choice else message.get("content") or message.get("refusal")
    if reason in _WITHHELD:
        raise RequestError(f"{address}: {_WITHHELD[reason]} (finish_reason {reason!r}).")
    if message.get("tool_calls") and not text:
        raise RequestError(f"{address} answered with a call of a tool instead of text.")
    ids, logprobs = _tokens(choice, address) if token_ids else (None, None)
    return Completion(
        text=str(text or ""),
        finish_reason="length" if reason in _ENDED_BY_LENGTH else "stop",
        tokens=ids,
        logprobs=logprobs,
        prompt_tokens=prompt_tokens,
    )


def _tokens(choice: Mapping[str, Any], address: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The ids and log-probs as vLLM returns them: after a conversation in `content`, after ids in a flat list."""
    told = choice.get("logprobs") or {}
    values = told.get("token_logprobs")
    if values is None:
        values = [entry.get("logprob") for entry in told.get("content") or []]
    ids = choice.get("token_ids") or []
    if not ids or len(ids) != len(values) or not all(isinstance(value, int | float) for value in values):
        raise RequestError(
            f"{address} returned {len(ids)} token ids and {len(values)} log-probs with an answer, but token_ids=True"
            " needs one of each for every token, as vLLM returns them with return_token_ids. Use such a server, or"
            " for anything but RL leave token_ids out.",
            hopeless=True,
        )
    return tuple(map(int, ids)), tuple(map(float, values))


def request_seed(seed: int, key: int, number: int) -> int:
    """31 bits that follow from all three."""
    digest = hashlib.blake2b(f"{seed} {key} {number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def estimate(body: Mapping[str, Any], completion_tokens: int) -> int:
    """Tokens that a request will cost at most, roughly."""
    if "prompt" in body:
        return len(body["prompt"]) + completion_tokens
    characters = sum(len(str(message.get("content"))) for message in body["messages"])
    return characters // _CHARACTERS_A_TOKEN + completion_tokens


def shown(prompt: Prompt) -> str:
    """The beginning of a prompt, for an error: of a conversation, its last message."""
    if not isinstance(prompt, str):
        last = prompt[-1]
        prompt = str(last.get("content")) if isinstance(last, Mapping) else f"{len(prompt)} tokens"
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "...")
