import random

from posttrain.curation.linting.separability import marked_separability, pair_separability
from posttrain.curation.linting.sides import Marked, Pair, digest

VOCABULARY = [f"{a}{b}" for a in ("lo", "ma", "ti", "ru", "se", "pa", "ne", "ko") for b in ("ran", "lit", "mos", "det")]


def text(draw, words):
    return " ".join(draw.choices(VOCABULARY, k=words)) + "."


def pairs(count, seed, *, longer=0.0, phrase=""):
    draw = random.Random(seed)
    found = []
    for i in range(count):
        chosen, rejected = text(draw, draw.randrange(15, 45)), text(draw, draw.randrange(15, 45))
        if draw.random() < longer:
            chosen = f"{rejected} {text(draw, 40)}"
        chosen = f"{phrase} {chosen}".strip()
        found.append(Pair(place=f"p:{i}", prompt=digest(str(i)), chosen=chosen, rejected=rejected))
    return found


def areas(found):
    return {one.features: one.area for one in found.separations}


def test_random_pairs_are_not_told_apart():
    found = areas(pair_separability(pairs(120, 0), total=120))
    assert set(found) == {"length", "words", "characters", "format"}
    assert all(interval.low <= 0.5 <= interval.high for interval in found.values())


def test_length_is_found_and_explains_the_words():
    found = pair_separability(pairs(120, 1, longer=0.8), total=120)
    by = {one.features: one for one in found.separations}
    assert by["length"].area.low > 0.7
    assert by["length"].without_length is None
    assert by["words"].area.estimate - by["words"].without_length.estimate > 0.1


def test_words_that_tell_are_named_with_their_side():
    found = pair_separability(pairs(80, 2, phrase="Certainly!"), total=80)
    by = {one.features: one for one in found.separations}
    assert by["words"].area.low > 0.85
    told = {one.name: one for one in by["words"].telling}
    assert (told["certainly"].side, told["certainly"].chosen, told["certainly"].rejected) == ("chosen", 1.0, 0.0)
    assert any("'Certainly!'" in one.name for one in by["format"].telling)


def test_swapped_sides_are_told_apart_as_well():
    given = pairs(60, 3, longer=0.5)
    swapped = [Pair(place=p.place, prompt=p.prompt, chosen=p.rejected, rejected=p.chosen) for p in given]
    one = areas(pair_separability(given, total=60))
    other = areas(pair_separability(swapped, total=60))
    for kind in one:
        assert abs(one[kind].estimate - other[kind].estimate) < 0.02


def test_an_answer_learned_by_heart_is_no_separation():
    # Each prompt has ten equal pairs: folds that split a prompt would know the answer and report 1.0.
    given = [
        Pair(place=p.place, prompt=p.prompt, chosen=p.chosen, rejected=p.rejected)
        for p in pairs(30, 4)
        for _ in range(10)
    ]
    found = areas(pair_separability(given, total=300))
    assert found["words"].low < 0.5
    assert found["words"].n == 30


def test_few_prompts_are_not_judged():
    found = pair_separability(pairs(12, 5, phrase="Certainly!"), total=12)
    assert found.separations == ()
    assert found.prompts == 12


def test_marked_answers_are_told_apart_by_their_words():
    draw = random.Random(6)
    answers = [
        Marked(place=f"k:{i}", prompt=digest(str(i)), good=i % 2 == 0,
               text=text(draw, 20) + ("" if i % 2 == 0 else " *giggle*"))
        for i in range(120)
    ]  # fmt: skip
    found = marked_separability(answers, total=120)
    by = {one.features: one for one in found.separations}
    assert by["words"].area.low > 0.85
    assert by["length"].accuracy is None
    assert ("giggle", "bad") in {(one.name, one.side) for one in by["words"].telling}


def test_a_fifth_of_skewed_pairs_is_found():
    found = areas(pair_separability(pairs(300, 7, longer=0.2), total=300))
    assert found["length"].low > 0.5
    assert found["length"].estimate >= 0.55
