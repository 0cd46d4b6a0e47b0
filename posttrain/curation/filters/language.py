"""Languages: by the script a text is written in, and by langdetect where a script serves several languages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from posttrain.curation.filters.length import Judge
from posttrain.curation.filters.spoken import Spoken
from posttrain.errors import ConfigError, nearest

# The blocks of Unicode that hold a script's letters, as ranges of a regular expression.
SCRIPTS: Mapping[str, str] = {
    "latin": (
        "A-Za-zªº\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0250-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff"
        "\uff21-\uff3a\uff41-\uff5a"
    ),
    "greek": "\u0370-\u0373\u0376-\u037d\u037f\u0386\u0388-\u03ff\u1f00-\u1fff",
    "cyrillic": "\u0400-\u0481\u048a-\u052f\u1c80-\u1c8f\ua640-\ua66e\ua680-\ua69d",
    "armenian": "\u0531-\u0587",
    "hebrew": "\u05d0-\u05f2\ufb1d-\ufb4f",
    "arabic": "\u0620-\u065f\u066e-\u06d3\u06d5\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdfb\ufe70-\ufefc",
    "devanagari": "\u0900-\u0963\u0970-\u097f\ua8e0-\ua8ff",
    "bengali": "\u0980-\u09e5\u09f0-\u09fe",
    "gurmukhi": "\u0a01-\u0a5e\u0a70-\u0a76",
    "gujarati": "\u0a81-\u0ae3\u0af9-\u0aff",
    "tamil": "\u0b82-\u0bd7",
    "telugu": "\u0c00-\u0c63",
    "kannada": "\u0c80-\u0ce3",
    "malayalam": "\u0d00-\u0d63\u0d7a-\u0d7f",
    "thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "hangul": "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb",
    "kana": "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d",
    "han": "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
}

# A language by its scripts, the first of which it must show; True where langdetect tells it from its neighbours.
LANGUAGES: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "zh": (("han",), False),
    "ja": (("kana", "han"), False),
    "ko": (("hangul", "han"), False),
    "th": (("thai",), False),
    "el": (("greek",), False),
    "he": (("hebrew",), False),
    "hy": (("armenian",), False),
    "ka": (("georgian",), False),
    "bn": (("bengali",), False),
    "pa": (("gurmukhi",), False),
    "gu": (("gujarati",), False),
    "ta": (("tamil",), False),
    "te": (("telugu",), False),
    "kn": (("kannada",), False),
    "ml": (("malayalam",), False),
    **dict.fromkeys(("ru", "uk", "bg", "mk"), (("cyrillic",), True)),
    **dict.fromkeys(("ar", "fa", "ur"), (("arabic",), True)),
    **dict.fromkeys(("hi", "mr", "ne"), (("devanagari",), True)),
    **dict.fromkeys(
        ("af", "ca", "cs", "cy", "da", "de", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it", "lt", "lv", "nl",
         "no", "pl", "pt", "ro", "sk", "sl", "so", "sq", "sv", "sw", "tl", "tr", "vi"),
        (("latin",), True),
    ),
}  # fmt: skip

TOLD_FROM = 20  # letters; of a shorter text the script alone is looked at
_LETTERS = {name: re.compile(f"[{ranges}]") for name, ranges in SCRIPTS.items()}
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\\\(.*?\\\)|\$[^$\n]*\$", re.DOTALL)


def written_in(languages: Sequence[str], part: str = "answer") -> Judge:
    """A judge that lets through rows in one of these languages (en, zh) or scripts (latin, han).

    More than half of the letters outside code, formulas and addresses must be of the language's scripts, and the row
    must show the first of these (kana in Japanese). Rows without letters pass. Raises ConfigError for what is neither,
    and RewardError where langdetect is needed and missing.
    """
    wanted = [_known(name) for name in languages]
    if any(told for _, _, told in wanted):
        from posttrain.rewards.instructions.wording import detected_language

        detected_language("It is installed, or this says what to do.")

    def judge(said: Spoken) -> str | None:
        text = _CODE.sub(" ", said.part(part))
        counts = script_counts(text)
        letters = sum(counts.values())
        if not letters:
            return None
        told = ""
        for name, scripts, ask in wanted:
            if 2 * sum(counts.get(script, 0) for script in scripts) <= letters or not counts.get(scripts[0]):
                continue
            if name == "zh" and 10 * counts.get("kana", 0) > letters:
                continue
            if not ask or counts[scripts[0]] < TOLD_FROM:
                return None
            told = told or detected_language(text) or ""
            if told.startswith(name):
                return None
        most = max(counts, key=lambda name: counts[name])
        return f"is not in {' or '.join(languages)}, but {f'in {told}' if told else f'mostly {most}'}"

    return judge


def script_counts(text: str) -> dict[str, int]:
    """How many letters of each script the text has; scripts without any are left out."""
    if text.isascii():
        count = len(_LETTERS["latin"].findall(text))
        return {"latin": count} if count else {}
    counts = {name: len(letters.findall(text)) for name, letters in _LETTERS.items()}
    return {name: count for name, count in counts.items() if count}


def _known(name: str) -> tuple[str, tuple[str, ...], bool]:
    if name in LANGUAGES:
        return name, *LANGUAGES[name]
    if name in SCRIPTS:
        return name, (name,), False
    raise ConfigError(
        f"languages: {name!r} is no language or script known here{nearest(name, [*LANGUAGES, *SCRIPTS])} "
        f"(languages: {', '.join(sorted(LANGUAGES))}; scripts: {', '.join(SCRIPTS)})"
    )
