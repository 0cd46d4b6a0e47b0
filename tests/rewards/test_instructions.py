"""Every instruction of IFEval, with a response that follows it and one that narrowly does not."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import RewardError
from posttrain.rewards.instructions import follows, instruction_following, wording
from posttrain.rewards.instructions.counting import sentences
from posttrain.rewards.instructions.following import CHECKS

SHOUT = "THE WEATHER IN THE MOUNTAINS IS OFTEN COLD AND WET."

EXAMPLES: list[tuple[str, dict[str, Any], str, str]] = [
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
     "NASA and ESA", "NASA and Esa"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"},
     "NASA only", "NASA, ESA"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, " write a poem. Roses", "Here: Write a poem."),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:two_responses", {}, "******\none\n******\ntwo\n******", "one\n******\ntwo\n******\nthree"),
    ("combination:two_responses", {}, "one******two", "one\n***\ntwo"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] and [address]", "[name] and [address"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\nP. S. More", "Bye\nPS More"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\np.p.s. More", "Bye\nP.S. More"),
    ("detectable_content:postscript", {"postscript_marker": "NB:"}, "nb: more", "nb more"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1,}'),
    ("detectable_format:json_format", {}, '{"a": 1}', 'JSON: {"a": 1}'),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     "Section 1\na\nSection 2\nb", "Section 1\na\nSection\nb"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "So:\n* a\n  - b", "* a\n* b\n* c"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* a\n**bold**", "**bold**"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and * *"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>\n<A title>"),
    ("detectable_format:title", {}, "see <<b>>", "<<A\ntitle>>"),
    ("keywords:existence", {"keywords": ["mom", "Dog"]}, "Moments with a dog", "Moments with a cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "c++"]}, "rocket science in C", "Rock, paper"),
    ("keywords:forbidden_words", {"forbidden_words": ["c++"]}, "c+", "use C++!"),
    ("keywords:frequency", {"keyword": "War", "frequency": 2, "relation": "at least"}, "war and WAR", "war and peace"),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, "war", "war, war"),
    ("keywords:letter_frequency", {"letter": "T", "let_frequency": 2, "let_relation": "at least"}, "Tut", "tu"),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "less than"}, "hey!", "hey!!"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
     "One.\n\n\"Weekend,\" she said.", "One.\n\nWeekends are."),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "one"},
     "One.\n\nTwo.", "One.\n\nTwo.\n\nThree."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***\n", "a\n***\n\n***\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a***b", "a\n\nb"),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, "A b. C! D?", "A b. C!"),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"},
     "Yes, Mr. X. Go.", "Aa. B! C?"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one, two - three", "one, two -"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "don't", "one two three"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("startend:end_checker", {"end_phrase": "So what is next?"}, 'Hm. so what is NEXT?"', "So what is next? Go"),
    ("startend:quotation", {}, ' "all of it"\n', '"all" of it'),
    ("startend:quotation", {}, '""', '"'),
]  # fmt: skip
LANGUAGE_EXAMPLES: list[tuple[str, dict[str, Any], str, str]] = [
    ("change_case:english_capital", {}, SHOUT, SHOUT.replace("COLD", "Cold")),
    ("change_case:english_capital", {}, SHOUT, "DAS WETTER IN DEN BERGEN IST OFT KALT UND NASS."),
    ("change_case:english_lowercase", {}, SHOUT.lower(), SHOUT.capitalize()),
    ("language:response_language", {"language": "de"}, "Das Wetter ist heute schön.", SHOUT),
    ("language:response_language", {"language": "en"}, SHOUT.capitalize(), "..."),
]


def test_there_are_25_instructions_and_each_has_an_example() -> None:
    assert len(CHECKS) == 25
    assert {name for name, *_ in EXAMPLES + LANGUAGE_EXAMPLES} == set(CHECKS)


@pytest.mark.parametrize(("name", "options", "right", "wrong"), EXAMPLES)
def test_an_instruction_is_followed_or_narrowly_not(name: str, options: Any, right: str, wrong: str) -> None:
    assert follows(right, name, options)
    assert not follows(wrong, name, options)


@pytest.mark.parametrize(("name", "options", "right", "wrong"), LANGUAGE_EXAMPLES)
def test_a_language_is_used_or_not(name: str, options: Any, right: str, wrong: str) -> None:
    pytest.importorskip("langdetect")
    assert follows(right, name, options)
    assert not follows(wrong, name, options)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("...", 0), ("One", 1), ("One.", 1), ("One. Two", 2), ("One! Two? Three.", 3), ("What?! No.", 2),
        ("Dr. Smith met Mrs. Jones at 3 p.m. on Monday.", 1), ("We met at 3 p.m. Then we left.", 2),
        ("It costs 3.50, i.e. nothing.", 1), ("J. K. Rowling wrote it. So do I. Yes.", 3), ("See no. 5. No. Go.", 3),
        ("Well... perhaps. Well... No.", 3), ("1. Eat.\n2. Sleep.", 2), ("It was 1990. Then came 1991.", 2),
        ('He said "Go." She went.', 2), ("all lower. like this. yes.", 3), ("Apples, pears, etc. are fruit.", 1),
        ("これは文です。これも文です。", 2), ("A (small.) B", 2), ("no end\n\nhere. Yes", 2),
        ("www.a.com is a site.", 1),
    ],
)  # fmt: skip
def test_sentences_are_counted(text: str, count: int) -> None:
    assert sentences(text) == count


def graded(response: str, ids: list[str], kwargs: list[dict[str, Any]], **options: Any) -> Any:
    rows = {"instruction_id_list": [ids], "kwargs": [kwargs]}
    return instruction_following(**options)(prompts=["p"], completions=[response], completion_ids=[[1]], **rows)[0]


def test_all_or_the_share_of_the_instructions() -> None:
    ids = ["punctuation:no_comma", "startend:quotation", "keywords:existence"]
    kwargs = [{}, {}, {"keywords": ["a"]}]
    assert graded('"a b"', ids, kwargs) == 1.0
    assert graded("a b", ids, kwargs) == 0.0
    assert graded("a b", ids, kwargs, score="share") == pytest.approx(2 / 3)
    assert graded("", ids, kwargs, score="share") == 0.0
    assert graded("a", [], []) is None


def test_loosely_a_preamble_an_epilogue_and_asterisks_do_not_count() -> None:
    ids, kwargs = ["startend:quotation"], [{}]
    for response in ('Sure:\n"a"', '"a"\nThat is it.', 'Sure:\n"a"\nThat is it.', '*"a"*', 'Sure:\n**"a"**'):
        assert graded(response, ids, kwargs) == 0.0, response
        assert graded(response, ids, kwargs, mode="loose") == 1.0, response
    assert graded('Sure:\nHere:\n"a"', ids, kwargs, mode="loose") == 0.0
    assert graded("Sure, here", ["punctuation:no_comma"], kwargs, mode="loose") == 0.0  # nothing is left of it


def test_options_that_a_table_filled_with_none_are_not_given() -> None:
    assert graded("a", ["punctuation:no_comma"], [{"num_words": None, "relation": None}]) == 1.0
    assert graded("a", ["punctuation:no_comma"], [None]) == 1.0  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("ids", "kwargs", "message"),
    [
        (["punctuation:no_commas"], [{}], r"row 0.*no_commas.*did you mean 'punctuation:no_comma'"),
        (["keywords:existence"], [{}], r"row 0.*keywords:existence needs keywords"),
        (["keywords:existence"], [{"keywords": None}], "keywords is missing"),
        (["punctuation:no_comma"], [{"commas": 3}], r"has no options.*commas"),
        (["keywords:existence"], [{"keywords": "word"}], "must be a list of texts"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "about"}], "'at least', 'less than'"),
        (["length_constraints:number_words"], [{"num_words": "3", "relation": "at least"}], "cannot use kwargs"),
        (["punctuation:no_comma"], [], "1 instructions and kwargs for 0"),
    ],
)
def test_a_row_that_cannot_be_checked_is_named(ids: list[str], kwargs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        graded("a", ids, kwargs)


def test_missing_columns_and_unknown_options_are_said() -> None:
    with pytest.raises(RewardError, match=r"instruction_id_list.*question"):
        instruction_following()(prompts=["p"], completions=["a"], completion_ids=[[1]], question=["?"])
    with pytest.raises(RewardError, match=r"mode='stricts'.*did you mean 'strict'"):
        instruction_following(mode="stricts")  # type: ignore[arg-type]


HOSTILE = [
    unit * (200_000 // len(unit)) + end
    for unit, end in (
        ("[", ""), ("<<", ""), ("*", ""), ("\n", ""), (".", "x"), ("1. ", ""), ("p.", ""), ("-", ""), ("[", "```"),
        ('"', ""), ("Section ", ""), ("a", ""), ("a'", ""), ("\n*", ""), ("*\n", ""), ("A. ", ""),
    )
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:4]))
def test_hostile_responses_cost_little(text: str) -> None:
    start = time.process_time()
    for name, options, _, _ in EXAMPLES:
        follows(text, name, options, loose=True)
    assert time.process_time() - start < 4  # 38 instructions in up to eight variants


LANGUAGES = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "mr": "सर्व मानवी व्यक्ती जन्मतः स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ.",
}


def numbered(unit: str, count: int, relation: str) -> tuple[str, str]:
    """`unit` as often as the relation allows at the edge, and once beyond that edge."""
    right, wrong = (count, count - 1) if relation == "at least" else (count - 1, count)
    return "x " + unit * right, "x " + unit * wrong


def pair(name: str, o: dict[str, Any]) -> tuple[str, str]:
    """A response that follows the public file's instruction by a hair, and one that misses it by a hair."""
    short = name.partition(":")[2]
    match short:
        case "capital_word_frequency":
            return numbered("NASA x ", o["capital_frequency"], o["capital_relation"])
        case "repeat_prompt":
            return o["prompt_to_repeat"].upper() + " Yes.", o["prompt_to_repeat"][:-1]
        case "number_placeholders":
            return "[a] " * o["num_placeholders"], "[a] " * (o["num_placeholders"] - 1) + "[a"
        case "postscript":
            return f"Bye.\n\n{o['postscript_marker']} More", "Bye.\n\nPS More"
        case "multiple_sections":
            unit = f"{o['section_spliter']} 1\nx\n"
            return unit * o["num_sections"], unit * (o["num_sections"] - 1)
        case "number_bullet_lists":
            return "* x\n" * o["num_bullets"], "* x\n" * (o["num_bullets"] + 1)
        case "number_highlighted_sections":
            return "*x y* " * o["num_highlights"], "*x y* " * (o["num_highlights"] - 1) + "*x"
        case "existence":
            words = o["keywords"]
            return ", ".join(words).upper(), ", ".join(words[1:]) + words[0][:-1]
        case "forbidden_words":
            return "x".join(o["forbidden_words"]) + "x", f"x {o['forbidden_words'][-1].upper()}!"
        case "frequency":
            return numbered(o["keyword"] + "; ", o["frequency"], o["relation"])
        case "letter_frequency":
            right, wrong = numbered(o["letter"].upper() + "_", o["let_frequency"], o["let_relation"])
            return right, wrong
        case "response_language":
            others = [text for code, text in LANGUAGES.items() if code != o["language"]]
            return LANGUAGES[o["language"]], others[0]
        case "nth_paragraph_first_word":
            paragraphs = ["x y."] * o["num_paragraphs"]
            paragraphs[o["nth_paragraph"] - 1] = f"{o['first_word'].title()}, y."
            return "\n\n".join(paragraphs), "\n\n".join([*paragraphs, "x"])
        case "number_paragraphs":
            return "\n***\n".join("x" * o["num_paragraphs"]), "\n***\n".join("x" * (o["num_paragraphs"] + 1))
        case "number_sentences":
            right, wrong = numbered("Go there. ", o["num_sentences"], o["relation"])
            return right[2:] or "?", wrong[2:]
        case "number_words":
            right, wrong = numbered("word ", o["num_words"], o["relation"])
            return right[2:], wrong[2:]
        case "end_checker":
            return f"x. {o['end_phrase']}", f"x. {o['end_phrase']} x"
    return next((right, wrong) for other, _, right, wrong in EXAMPLES + LANGUAGE_EXAMPLES if other == name)


@pytest.fixture(scope="module")
def public_rows() -> list[dict[str, Any]]:
    if not os.environ.get("POSTTRAIN_DATA"):
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    file = Path(os.environ["POSTTRAIN_DATA"], "ifeval", "input_data.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_instruction_of_the_public_file_is_met_and_missed_by_a_hair(public_rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("langdetect")
    seen = 0
    for row in public_rows:
        for name, options in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            right, wrong = pair(name, options)
            for mode in ("strict", "loose"):
                assert graded(right, [name], [options], mode=mode) == 1.0, (row["key"], name, options, right)
            assert graded(wrong, [name], [options]) == 0.0, (row["key"], name, options, wrong)
            seen += 1
    assert (len(public_rows), seen) == (541, 834)


def test_the_public_file_is_graded_whole(public_rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("langdetect")
    columns = {name: [row[name] for row in public_rows] for name in ("instruction_id_list", "kwargs", "key")}
    prompts = [row["prompt"] for row in public_rows]
    common = {"prompts": prompts, "completion_ids": [[1]] * len(prompts), **columns}
    assert instruction_following(score="share")(completions=[""] * len(prompts), **common) == [0.0] * len(prompts)
    strict = instruction_following(score="share")(completions=prompts, **common)
    loose = instruction_following(mode="loose", score="share")(completions=prompts, **common)
    assert all(a <= b for a, b in zip(strict, loose))
    assert 0.1 < sum(strict) / len(strict) < 0.7  # a prompt says the words that it asks for and is too short


def test_a_missing_language_detector_is_said_with_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    wording._detectors.cache_clear()
    monkeypatch.setitem(sys.modules, "langdetect.detector_factory", None)
    with pytest.raises(RewardError, match=r"row 0.*pip install langdetect"):
        graded("ein Satz", ["language:response_language"], [{"language": "de"}])
