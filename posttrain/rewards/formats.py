"""Rewards for the form of a completion: reasoning tags, a pattern, JSON, its length, repetition."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from posttrain.errors import RewardError, nearest
from posttrain.rewards.columns import completion_text
from posttrain.rewards.workers import Workers

if TYPE_CHECKING:  # worker processes import this module, which is quick without torch
    from posttrain.types import Reward

Unit = Literal["characters", "words", "tokens"]
UNITS = ("characters", "words", "tokens")


def reasoning_format(
    *, think: str = "think", answer: str | None = None, strict: bool = True, opened: bool = False
) -> Reward:
    """A reward: 1.0 for `<think>...</think>` and then an answer, else 0.0.

    `answer="answer"` wants the answer inside `<answer>...</answer>`. `strict` wants every tag exactly once, nothing
    before the thinking and, with answer tags, nothing outside of the tags; otherwise one pair of each in order is
    enough. `opened`: the chat template has already written `<think>`, and the completion begins inside of it.
    """
    tags = [f"<{think}>", f"</{think}>", *((f"<{answer}>", f"</{answer}>") if answer else ())]

    def well_formed(text: str) -> bool:
        if opened:
            text = tags[0] + text
        if strict and any(text.count(tag) != 1 for tag in tags):
            return False
        ends, between = 0, []
        for tag in tags:
            start = text.find(tag, ends)
            if start < 0:
                return False
            between.append(text[ends:start].strip())
            ends = start + len(tag)
        rest = text[ends:].strip()
        before, _, *middle = between
        if not (middle[1] if answer else rest):
            return False
        return not strict or not (before or (answer and (middle[0] or rest)))

    return _by_text("reasoning_format", well_formed)


def regex_match(pattern: str, *, full: bool = False, timeout_s: float | None = None) -> Reward:
    """A reward: 1.0 where the regular expression is found in the completion (`full`: is all of it), else 0.0.

    With `timeout_s` the search runs in processes that are killed when it takes longer, which leaves the completion
    unjudged: an expression with nested repetition can take for ever on the wrong text.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RewardError(f"regex_match: {pattern!r} is no regular expression: {error}") from error
    if timeout_s is None:
        return _by_text("regex_match", lambda text: matches(compiled, full, text))
    workers = Workers(matches, timeout_s=timeout_s, unpack=True)

    def reward(completions: Sequence[Any], **columns: Any) -> list[Any]:
        found = workers.map([(pattern, full, completion_text(completion)) for completion in completions])
        return [float(value) if isinstance(value, bool) else value for value in found]

    reward.__name__ = "regex_match"
    return reward


def matches(pattern: str | re.Pattern[str], full: bool, text: str) -> bool:
    """Whether the pattern is in the text, or is the whole of it."""
    return (re.fullmatch if full else re.search)(pattern, text) is not None


def json_valid(schema: Mapping[str, Any] | None = None, *, fence: bool = False) -> Reward:
    """A reward: 1.0 where the completion is one JSON value that fits the JSON schema, if one is given, else 0.0.

    `fence` allows a fence of three backticks around it. NaN and Infinity are not JSON. References of the schema to
    other addresses are not followed. Raises RewardError for a schema that is none and where jsonschema is missing.
    """
    fits = _schema_check(schema) if schema is not None else None

    def valid(text: str) -> bool:
        try:
            value = read_json(without_fence(text) if fence else text)
            return fits is None or fits(value)
        except (ValueError, RecursionError):  # thousands of brackets deep is not what was asked for
            return False

    return _by_text("json_valid", valid)


def read_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError where it is not JSON, RecursionError where it is too deep."""
    return json.loads(
        text, parse_constant=_refuse, parse_int=lambda digits: int(digits) if len(digits) < 4000 else float(digits)
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def without_fence(text: str) -> str:
    """The text between a fence of three backticks, with or without a language, or the text itself."""
    text = text.strip()
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        return re.sub(r"\A\w+(?=\s)", "", text[3:-3]).strip()
    return text


def _schema_check(schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    if importlib.util.find_spec("jsonschema") is None:
        raise RewardError(
            "json_valid: checking a schema needs jsonschema, which is not installed: pip install jsonschema"
        )
    from jsonschema import SchemaError, validators
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable

    validator_class = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        validator_class.check_schema(schema)
    except SchemaError as error:
        raise RewardError(
            f"json_valid: the schema is no JSON schema: {error.message} (at {error.json_path})"
        ) from error
    validator = validator_class(schema, registry=REGISTRY)

    def fits(value: Any) -> bool:
        try:
            return bool(validator.is_valid(value))
        except Unresolvable as error:
            raise RewardError(f"json_valid: the schema refers to something that is not in it: {error}") from error

    return fits


def length(
    *, target: int | None = None, minimum: int | None = None, maximum: int | None = None, unit: Unit = "words"
) -> Reward:
    """A reward for the length of the completion in characters, words or tokens.

    With `target` it falls off linearly on both sides, max(0, 1 - |length - target| / target). With `minimum`, `maximum`
    or both (inclusive) it is 1.0 inside and 0.0 outside.
    """
    _check_unit("length", unit)
    if (target is None) == (minimum is None and maximum is None):
        raise RewardError("length: give either target, or minimum and maximum or one of them")
    for name, value, least in (("target", target, 1), ("minimum", minimum, 0), ("maximum", maximum, 0)):
        if value is not None and value < least:
            raise RewardError(f"length: {name}={value!r} must be at least {least}")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise RewardError(f"length: minimum={minimum} is above maximum={maximum}")

    def closeness(size: int) -> float:
        if target is not None:
            return max(0.0, 1.0 - abs(size - target) / target)
        return float((minimum is None or size >= minimum) and (maximum is None or size <= maximum))

    return _by_parts("length", unit, lambda parts: closeness(len(parts)))


def soft_overlong_punishment(max_completion_length: int, soft_punish_cache: int) -> Reward:
    """A reward for tokens that are too many (DAPO, arXiv:2503.14476 eq. 13): between 0 and -1.

    With L tokens, of L_max allowed, and a cache of C: 0 if L ≤ L_max - C, ((L_max - C) - L) / C if L ≤ L_max, else -1.
    """
    if not 0 < soft_punish_cache <= max_completion_length:
        raise RewardError(
            f"soft_overlong_punishment: soft_punish_cache={soft_punish_cache} must be above 0 and at most "
            f"max_completion_length={max_completion_length}"
        )
    free = max_completion_length - soft_punish_cache

    def value(parts: Sequence[Any]) -> float:
        size = len(parts)
        return -1.0 if size > max_completion_length else min(0.0, (free - size) / soft_punish_cache)

    return _by_parts("soft_overlong_punishment", "tokens", value)


def repetition_penalty(ngram_size: int = 3, max_penalty: float = -1.0, *, unit: Unit = "words") -> Reward:
    """A reward against repetition: `max_penalty` times the share of n-grams that stood in the completion before.

    Words are compared without case. A completion shorter than an n-gram gets 0.
    """
    _check_unit("repetition_penalty", unit)
    if ngram_size < 1:
        raise RewardError(f"repetition_penalty: ngram_size={ngram_size} must be at least 1")
    if max_penalty > 0:
        raise RewardError(f"repetition_penalty: max_penalty={max_penalty} must be 0 or below: it is a penalty")

    def value(parts: Sequence[Any]) -> float:
        count = len(parts) - ngram_size + 1
        if count < 1:
            return 0.0
        different = len(set(zip(*(parts[start:] for start in range(ngram_size)))))
        return max_penalty * (1 - different / count)

    return _by_parts("repetition_penalty", unit, value)


def _check_unit(name: str, unit: str) -> None:
    if unit not in UNITS:
        raise RewardError(f"{name}: unit={unit!r} must be one of {', '.join(UNITS)}{nearest(unit, UNITS)}")


def _by_text(name: str, holds: Callable[[str], bool]) -> Reward:
    def reward(completions: Sequence[Any], **columns: Any) -> list[float]:
        return [float(holds(completion_text(completion))) for completion in completions]

    reward.__name__ = name
    return reward


def _by_parts(name: str, unit: Unit, value: Callable[[Sequence[Any]], float]) -> Reward:
    def reward(completions: Sequence[Any], completion_ids: Any = None, **columns: Any) -> list[float]:
        if unit == "tokens":
            if completion_ids is None:
                raise RewardError(
                    f"{name} counts tokens and was given none: completion_ids is missing; count words here"
                )
            return [value(ids) for ids in completion_ids]
        texts = map(completion_text, completions)
        return [value(text.lower().split() if unit == "words" else text) for text in texts]

    reward.__name__ = name
    return reward
