"""The filters that look at one row: what each removes, and what it leaves alone."""

import pytest

from posttrain.curation.filters.empty import is_nothing, not_empty
from posttrain.curation.filters.formatting import is_open, well_formed, wrongly_decoded
from posttrain.curation.filters.length import within
from posttrain.curation.filters.refusals import not_refusing, refuses
from posttrain.curation.filters.repetition import not_repeating
from posttrain.curation.filters.spoken import Spoken
from posttrain.curation.filters.word_list import read_list, without
from posttrain.curation.filters.words import count_words, words
from posttrain.errors import ConfigError


def answer(*texts, prompt="Why?"):
    return Spoken(prompt=prompt, answers=texts)


def test_words_of_mixed_scripts():
    assert words("Don’t say ＡＢＣ 12, 我是Qwen。") == ["don", "t", "say", "abc", "12", "我", "是", "qwen"]
    assert count_words("我是Qwen。") == 3


@pytest.mark.parametrize(
    "text", ["", " \n\t", "...", "N/A", "n/a.", "None", "<nooutput>", "No output", "无", "。。", "null", "-"]
)
def test_answers_that_say_nothing(text):
    assert is_nothing(text)


@pytest.mark.parametrize("text", ["No", "0", ">", "+", "!", "😀", "None of them.", "ok", "是", "(a)", "nothing"])
def test_short_answers_that_say_something(text):
    assert not is_nothing(text)


def test_every_answer_must_say_something():
    judge = not_empty()
    assert judge(answer("yes", "of course")) is None
    assert judge(answer("yes", " ")) == "answer 2 of 2 is empty"
    assert judge(Spoken(prompt="?", answers=("good",), rejected=("",))) == "answer 2 of 2 is empty"
    assert judge(Spoken(prompt="only a prompt")) is None
    assert judge(Spoken(prompt="  ")) == "the row says nothing"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot provide this.",
        "I am very sorry but as an AI language model, I cannot browse the web.",
        "As an AI, I don't have personal opinions.",
        "As a large language model, I am unable to access files.",
        "Sorry, I can't assist with that request.",
        "I cannot create images.",
        "Unfortunately, I am not able to answer this.",
        "I apologize, but I cannot write that.",
        "抱歉，我无法提供相关信息。",
        "很抱歉,我不能回答这个问题",
        "对不起，作为一个人工智能，我不能这样做。",
        "作为一个AI语言模型，我无法访问互联网。",
        "我无法为您提供医疗建议。",
    ],
)
def test_refusals_are_told_by_how_they_begin(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to tell you about Paris!",
        "Sorry to hear that. Try restarting it.",
        "I'm sorry for your loss. Grief takes time.",
        "The essay says: I'm sorry, but I can't help with that.",
        "As an AI engineer, you will write code.",
        "抱歉让你久等了，答案是四。",
        "我不能确定，但我认为是四。",
        "作为一个城市，北京很大。",
        "Unfortunately, the flight was late.",
    ],
)
def test_apologies_and_quotes_are_no_refusals(text):
    assert not refuses(text)


def test_a_rejected_side_may_refuse():
    assert not_refusing()(Spoken(prompt="?", answers=("Sure: 4.",), rejected=("I cannot help with that.",))) is None


def test_repetition_by_hand():
    # a b c d a b c d: five runs of four words, of which abcd, bcda, cdab, dabc are different: 1 - 4/5
    assert not_repeating(0.2)(answer("a b c d a b c d")) is None
    assert "20% of the runs" in not_repeating(0.19)(answer("a b c d a b c d"))


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("```python\nx\n```", False),
        ("```python\nx", True),
        ("````\n```\n````", False),
        ("````\n```\n", True),
        ("~~~\n```\n~~~", False),
        ("use ```x``` here", False),
        ("```x``` and\nmore", False),
        ("1. do\n   ```sh\n   ls\n   ```\n", False),
        ("```\na\n```\n```\nb", True),
        ("```\na\n```not a close\n", True),
    ],
)
def test_open_code_blocks(text, opened):
    assert is_open(text) == opened


@pytest.mark.parametrize(
    ("text", "was"),
    [("cafÃ© au lait", "é"), ("itâ€™s", "’"), ("ä½\xa0å¥½", "你"), ("20Â°C", "°"), ("ÐŸÑ€Ð¸", "П")],
)
def test_wrongly_decoded_text(text, was):
    assert wrongly_decoded(text)[1] == was


@pytest.mark.parametrize(
    "text", ["naïve café", "Ça va? Ñandú, São Tomé", "Über «groß»", "你好", "– “quoted” –", "Â", "é»"]
)
def test_right_text_is_left_alone(text):
    assert wrongly_decoded(text) is None


@pytest.mark.parametrize(
    ("said", "part"),
    [
        (answer("fine<|im_end|>"), "<|im_end|>"),
        (answer("[INST] hi [/INST]"), "[INST]"),
        (answer("hi", prompt="<start_of_turn>user"), "<start_of_turn>"),
        (answer("done</s>"), "</s>"),
        (answer("<｜Assistant｜>hi"), "<｜Assistant｜>"),
        (answer("bad \ufffd byte"), "U+FFFD"),
        (answer("text\n### Response:\nmore"), "### Response:"),
        (answer("itâ€™s"), "wrong encoding"),
        (answer("```\nx"), "not closed"),
    ],
)
def test_damaged_rows(said, part):
    assert part in well_formed()(said)


@pytest.mark.parametrize("text", ["<s>old</s> new", "a <|b", "## Response times\nfine", "if x <| y", "a[INSTALL]"])
def test_markup_is_no_damage(text):
    assert well_formed()(answer(text)) is None


def test_limits_of_length():
    judge = within({"answer_words": (2, 3), "prompt_characters": (None, 10)})
    assert judge(answer("one two")) is None
    assert judge(answer("我很好")) is None
    assert judge(answer("one two", "one")) == "1 answer words, fewer than 2"
    assert judge(answer("one two three four")) == "4 answer words, more than 3"
    assert judge(answer("one two", prompt="x" * 11)) == "11 prompt characters, more than 10"
    assert judge(Spoken(prompt="no answer")) is None
    assert within({"turns": (2, None)})(answer("only one")) == "1 turns, fewer than 2"


def test_tokens_are_counted_by_the_tokenizer(tmp_path):
    from tiny import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    said = answer("The capital of France is Paris.")
    count = len(tokenizer(said.text).input_ids)
    assert within({"tokens": (count, count)}, str(tmp_path))(said) is None
    assert f"{count} tokens, more than {count - 1}" in within({"tokens": (None, count - 1)}, str(tmp_path))(said)


def test_forbidden_words_are_whole_words(tmp_path):
    listed = tmp_path / "words.txt"
    listed.write_text("# mine\nbad thing\n\n坏人\n", encoding="utf-8")
    judge = without(read_list(["Ass", str(listed)]))
    assert judge(answer("a class of glass, a thing that is bad")) is None
    assert judge(answer("What an ASS!")) == "holds 'ass'"
    assert judge(answer("this Bad, thing")) == "holds 'bad thing'"
    assert judge(answer("他是坏人吗")) == "holds '坏 人'"
    assert judge(answer("坏的人")) is None
    assert without(["secret"], "answer")(answer("no", prompt="secret?")) is None


def test_word_lists_that_hold_nothing_are_refused(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n", encoding="utf-8")
    for given in ([str(empty)], [str(tmp_path / "missing.txt")]):
        with pytest.raises(ConfigError, match=r"\.txt"):
            read_list(given)
    with pytest.raises(ConfigError, match="holds no word"):
        without(["!!"])
