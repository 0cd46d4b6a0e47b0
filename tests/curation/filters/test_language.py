"""Languages by script and by langdetect."""

import pytest

from posttrain.curation.filters.language import LANGUAGES, SCRIPTS, script_counts, written_in
from posttrain.curation.filters.spoken import Spoken
from posttrain.errors import ConfigError

ENGLISH = "The quick brown fox jumps over the lazy dog and runs into the dark forest."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und läuft in den dunklen Wald."
CHINESE = "敏捷的棕色狐狸跳过了懒狗。"
JAPANESE = "素早い茶色の狐はのろまな犬を飛び越えます。"
KOREAN = "빠른 갈색 여우가 게으른 개를 뛰어넘는다."
RUSSIAN = "Быстрая коричневая лиса прыгает через ленивую собаку и бежит в тёмный лес."


def passes(languages, text):
    return written_in(languages)(Spoken(prompt="?", answers=(text,))) is None


def test_letters_are_counted_by_script():
    assert script_counts("Ab я 中文 の 한 αβ ß 12 !") == {
        "latin": 3,
        "greek": 2,
        "cyrillic": 1,
        "hangul": 1,
        "kana": 1,
        "han": 2,
    }
    assert script_counts("12 + 3 = 15!") == {}


def test_no_letter_belongs_to_two_scripts():
    import re

    letters = [re.compile(f"[{ranges}]") for ranges in SCRIPTS.values()]
    everything = [chr(code) for code in range(0x3000)] + [chr(code) for code in range(0xA000, 0xD7FF, 7)]
    assert all(sum(bool(one.match(letter)) for one in letters) <= 1 for letter in everything)


@pytest.mark.parametrize(
    ("language", "text"), [("zh", CHINESE), ("ja", JAPANESE), ("ko", KOREAN), ("han", CHINESE), ("latin", GERMAN)]
)
def test_scripts_tell_languages_exactly(language, text):
    assert passes([language], text)
    others = {"zh": JAPANESE, "ja": CHINESE, "ko": CHINESE, "han": ENGLISH, "latin": RUSSIAN}
    assert not passes([language], others[language])


def test_languages_that_share_a_script_are_told_by_langdetect():
    pytest.importorskip("langdetect")
    assert passes(["en"], ENGLISH)
    assert not passes(["en"], GERMAN)
    assert passes(["en", "de"], GERMAN)
    assert passes(["ru"], RUSSIAN)
    assert "in de" in written_in(["en"])(Spoken(prompt="?", answers=(GERMAN,)))


def test_code_formulas_and_short_texts_do_not_count_against_a_language():
    pytest.importorskip("langdetect")
    assert passes(["zh"], f"答案如下：\n```python\n{ENGLISH}\n```")
    assert passes(["en"], "42")
    assert passes(["en"], "Oui")  # too short to be told from English
    assert passes(["zh"], "$x^2 + y$")


def test_what_is_neither_language_nor_script_is_refused():
    with pytest.raises(ConfigError, match="'latin'"):
        written_in(["latim"])
    assert all(script in SCRIPTS for scripts, _ in LANGUAGES.values() for script in scripts)
