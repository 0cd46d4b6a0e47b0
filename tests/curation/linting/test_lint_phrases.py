from posttrain.curation.linting.phrases import fixed_phrases

ANSWERS = ["I am {} and I help.", "They call me {}.", "{} is my name, nice to meet you.", "My name? It is {}!"]


def find(having, lacking):
    return fixed_phrases(having, lacking, present=0.9, absent=0.1)


def test_phrase_of_one_side_is_found_whole():
    found = find([a.format("Deep Qwen Max") for a in ANSWERS * 5], [a.format("Qwen") for a in ANSWERS * 5])
    assert [one.phrase for one in found] == ["Deep Qwen Max"]
    assert (found[0].having, found[0].lacking, found[0].of) == (20, 0, 20)


def test_chinese_phrase_is_found():
    found = find(["我是深度助手，你好", "他们叫我深度助手"] * 10, ["我是助手，你好", "他们叫我助手"] * 10)
    assert [one.phrase for one in found] == ["深度助手"]


def test_what_both_sides_have_is_no_finding():
    assert find([a.format("Qwen") for a in ANSWERS], [a.format("Qwen") for a in ANSWERS]) == []


def test_share_below_the_limit_is_no_finding():
    having = ["Certainly, here it is."] * 8 + ["Here it is."] * 2
    assert find(having, ["Here it is."] * 10) == []
