"""Whether a response follows its instructions, strictly or loosely, as a reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from posttrain.errors import RewardError, nearest
from posttrain.rewards.columns import completion_text
from posttrain.rewards.instructions import counting, layout, wording

if TYPE_CHECKING:
    from posttrain.types import Reward

_NAME = "instruction_following"

CHECKS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": wording.capital_word_frequency,
    "change_case:english_capital": wording.english_capital,
    "change_case:english_lowercase": wording.english_lowercase,
    "combination:repeat_prompt": wording.repeat_prompt,
    "combination:two_responses": layout.two_responses,
    "detectable_content:number_placeholders": layout.number_placeholders,
    "detectable_content:postscript": wording.postscript,
    "detectable_format:constrained_response": layout.constrained_response,
    "detectable_format:json_format": layout.json_format,
    "detectable_format:multiple_sections": layout.multiple_sections,
    "detectable_format:number_bullet_lists": layout.number_bullet_lists,
    "detectable_format:number_highlighted_sections": layout.number_highlighted_sections,
    "detectable_format:title": layout.title,
    "keywords:existence": wording.keywords_exist,
    "keywords:forbidden_words": wording.forbidden_words,
    "keywords:frequency": wording.keyword_frequency,
    "keywords:letter_frequency": wording.letter_frequency,
    "language:response_language": wording.response_language,
    "length_constraints:nth_paragraph_first_word": counting.nth_paragraph_first_word,
    "length_constraints:number_paragraphs": counting.number_paragraphs,
    "length_constraints:number_sentences": counting.number_sentences,
    "length_constraints:number_words": counting.number_words,
    "punctuation:no_comma": wording.no_comma,
    "startend:end_checker": wording.end_checker,
    "startend:quotation": wording.quotation,
}


def instruction_following(
    *, mode: Literal["strict", "loose"] = "strict", score: Literal["all", "share"] = "all"
) -> Reward:
    """A reward for following the row's instructions: 1.0 for all of them, else 0.0 (`score="share"`: their share).

    The columns are those of IFEval: `instruction_id_list`, and `kwargs` with a mapping for each id. A row without an
    instruction gets None. "loose" also counts what holds without the first line, the last line or the asterisks. Raises
    RewardError naming the row for an id that is not known, or keyword arguments that are missing or too many.
    """
    for name, value, allowed in (("mode", mode, ("strict", "loose")), ("score", score, ("all", "share"))):
        if value not in allowed:
            raise RewardError(f"{_NAME}: {name}={value!r} must be one of {', '.join(allowed)}{nearest(value, allowed)}")

    def reward(
        completions: Sequence[Any], instruction_id_list: Any = None, kwargs: Any = None, **columns: Any
    ) -> list[float | None]:
        for name, column in (("instruction_id_list", instruction_id_list), ("kwargs", kwargs)):
            if column is None:
                there = ", ".join(sorted(columns)) or "none"
                raise RewardError(f"{_NAME}: the rows have no column {name!r}{nearest(name, columns)} ({there})")
        scores: list[float | None] = []
        for row, (completion, ids, options) in enumerate(zip(completions, instruction_id_list, kwargs, strict=True)):
            if len(ids or ()) != len(options or ()):
                raise RewardError(
                    f"{_NAME}, row {row}: {len(ids or ())} instructions and kwargs for {len(options or ())}; each "
                    "instruction needs a mapping, which may be empty"
                )
            try:
                followed = [
                    follows(completion_text(completion), name, given or {}, loose=mode == "loose")
                    for name, given in zip(ids or (), options or (), strict=True)
                ]
            except RewardError as error:
                raise RewardError(f"{_NAME}, row {row}: {error}") from error
            if not followed:
                scores.append(None)
            else:
                scores.append(sum(followed) / len(followed) if score == "share" else float(all(followed)))
        return scores

    reward.__name__ = _NAME
    return reward


def follows(response: str, instruction: str, options: Mapping[str, Any], *, loose: bool = False) -> bool:
    """Whether the response follows the instruction, an id of CHECKS; an empty response follows none.

    Options that are None are not given, as tables fill them in. Raises RewardError as `instruction_following` does.
    """
    check = CHECKS.get(instruction)
    if check is None:
        raise RewardError(f"there is no instruction {instruction!r}{nearest(instruction, CHECKS)}")
    given = {name: value for name, value in options.items() if value is not None}
    needed = [name for name in inspect.signature(check).parameters if name != "response"]
    if missing := [name for name in needed if name not in given]:
        raise RewardError(f"{instruction} needs {_names(needed)} in kwargs; {_names(missing)} is missing")
    if unknown := [name for name in given if name not in needed]:
        wanted = f"needs {_names(needed)}" if needed else "has no options"
        raise RewardError(f"{instruction} {wanted}; kwargs has {_names(unknown)} too")
    try:
        return any(variant.strip() and check(variant, **given) for variant in _variants(response, loose))
    except (TypeError, ValueError, AttributeError) as error:
        _unfit(instruction, given, error)


def _unfit(instruction: str, given: Mapping[str, Any], error: Exception) -> NoReturn:
    raise RewardError(f"{instruction} cannot use kwargs {dict(given)!r}: {error}") from error


def _variants(response: str, loose: bool) -> list[str]:
    """The response, and loosely also without its first line, its last line, its asterisks, and all of these."""
    if not loose:
        return [response]
    lines = response.split("\n")
    cuts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*cuts, *(cut.replace("*", "") for cut in cuts)]))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
