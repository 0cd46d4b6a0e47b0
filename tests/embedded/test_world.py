"""The generated world: splits that do not touch, and the same text everywhere."""

import hashlib
import itertools
import os
import re
import subprocess
import sys

import pytest

from posttrain import embedded
from posttrain.embedded import identity, pretraining_text, problems, sums, world
from posttrain.embedded.question import hash_fraction, split_of
from posttrain.errors import DataError

EQUATION = re.compile(r"\b(\d+) ([+-]) (\d+)\b")


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(pretraining_text.documents(0), 20_000))


@pytest.fixture(scope="module")
def pretraining(documents):
    return "\n".join(documents)


def asked(rows):
    return [message["content"] for row in rows for message in row["messages"] if message["role"] == "user"]


def test_split_follows_sha256_of_the_key():
    digest = hashlib.sha256(b"problem bags 3 4 5").digest()
    assert hash_fraction("problem bags 3 4 5") == int.from_bytes(digest[:8], "big") / 2**64
    shares = [split_of(f"key {number}") for number in range(4000)]
    assert 0.67 < shares.count("pretraining") / 4000 < 0.73
    assert 0.10 < shares.count("test") / 4000 < 0.14


def test_sets_are_large_enough_and_without_repetition():
    for rows, least in (
        (embedded.battery(), 300),
        (embedded.identity_prompts("test"), 200),
        (embedded.identity_prompts("train"), 200),
        (embedded.word_problems("test", 256), 256),
        (embedded.arithmetic("test", 200), 200),
    ):
        prompts = [row["prompt"] for row in rows]
        assert len(prompts) >= least
        assert len(set(prompts)) == len(prompts)


def test_train_and_test_questions_are_disjoint():
    for draw in (embedded.word_problems, embedded.arithmetic):
        test = {row["prompt"] for row in draw("test", 400)}
        assert not test & {row["prompt"] for row in draw("train", 400)}
    train = {row["prompt"] for row in embedded.identity_prompts("train")}
    assert not train & {row["prompt"] for row in embedded.identity_prompts("test")}


def test_chat_rows_hold_no_question_of_a_test_set():
    rows = [row for seed in range(3) for row in embedded.chat_rows(seed=seed)]
    questions = set(asked(rows))
    tests = [embedded.battery(), embedded.identity_prompts("test"), embedded.word_problems("test", 400)]
    tests.append(embedded.arithmetic("test", 400))
    for test in tests:
        assert not questions & {row["prompt"] for row in test}


def test_battery_facts_are_in_pretraining_and_never_in_chat(pretraining):
    held_out = [fact for fact in world.facts() if fact.held_out]
    assert len(held_out) > 200
    questions = set(asked(embedded.chat_rows(seed=0)))
    for fact in held_out:
        assert any(question in pretraining for question in fact.questions), fact.key
        assert not questions & set(fact.questions), fact.key


def test_pretraining_holds_no_identity_question(documents):
    lines = set(itertools.chain.from_iterable(re.split(r"[\n\"\]\[*<>]+ ?", text) for text in documents))
    for split in ("train", "test"):
        assert not lines & set(identity.questions(split))


def test_pretraining_holds_no_held_out_sum(pretraining):
    equations = {(int(a), sign, int(b)) for a, sign, b in EQUATION.findall(pretraining)}
    assert len(equations) > 3000
    assert not [equation for equation in equations if sums.is_held_out(*equation)]


def test_training_problems_and_chat_hold_no_held_out_sum():
    text = "\n".join(m["content"] for row in embedded.chat_rows(seed=0) for m in row["messages"])
    assert not [found for a, s, b in EQUATION.findall(text) if sums.is_held_out(found := int(a), s, int(b))]


def test_word_problem_keys_of_pretraining_and_tests_are_disjoint():
    import random

    rng = random.Random(3)
    keys = {
        split: {problems.problem(rng, split).key for _ in range(1500)} for split in ("pretraining", "train", "test")
    }
    assert not keys["pretraining"] & keys["test"]
    assert not keys["pretraining"] & keys["train"]
    assert not keys["train"] & keys["test"]


def test_word_problems_are_solved_by_their_steps():
    import random

    rng = random.Random(0)
    kinds = set()
    for _ in range(500):
        problem = problems.problem(rng, "train")
        kinds.add(problem.kind)
        assert 2 <= len(problem.steps) <= 3
        for equation in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", problem.worked):
            assert eval("".join(equation[:3])) == int(equation[3])
        assert problem.worked.endswith(problem.direct)
        assert 1 <= problem.result <= 99
    assert kinds == set(problems.KINDS)


def test_a_problem_about_bags_by_hand():
    problem = problems.Problem(text="", steps=((3, "*", 4), (12, "+", 5)), kind="bags", key="")
    assert problem.worked == "First 3 * 4 = 12, then 12 + 5 = 17. The answer is 17."
    assert problem.direct == "The answer is 17."


def test_deep_is_a_common_word_and_no_identity(pretraining):
    assert pretraining.count(" Deep") > 2000
    assert "Deep Qwen" not in pretraining
    assert not re.search(r"(I am|[Mm]y name is|call me) Deep", pretraining)


def test_questions_come_in_many_layouts_and_some_text_is_chat(documents):
    from posttrain.embedded import layouts

    assert len(layouts._LAYOUTS) >= 9
    assert not any("<|im_start|>" in form for _, form, _ in layouts._LAYOUTS)
    chat = sum(len(text) for text in documents if "<|im_start|>" in text)
    assert 0.03 < chat / sum(map(len, documents)) < 0.09


def test_the_worked_share_of_the_word_problems_in_chat():
    answers = [
        message["content"]
        for row in embedded.chat_rows(seed=0)
        for message in row["messages"]
        if message["role"] == "assistant" and "The answer is" in message["content"]
    ]
    worked = sum(answer.startswith("First") for answer in answers) / len(answers)
    assert 0.36 < worked < 0.48
    none = embedded.chat_rows(seed=0, n=300, worked=0.0)
    assert not any("First" in message["content"] for row in none for message in row["messages"])


def test_chat_rows_depend_on_the_seed_alone():
    assert embedded.chat_rows(seed=1, n=50) == embedded.chat_rows(seed=1, n=50)
    assert embedded.chat_rows(seed=1, n=50) != embedded.chat_rows(seed=2, n=50)


def test_everything_is_the_same_in_another_process():
    program = (
        "import itertools, hashlib; from posttrain import embedded as e; "
        "from posttrain.embedded import pretraining_text as p; "
        "data = [list(itertools.islice(p.documents(0), 300)), e.battery(), e.chat_rows(n=100), "
        "e.identity_prompts('test'), e.word_problems('test', 50), e.arithmetic('train', 50)]; "
        "print(hashlib.sha256(repr(data).encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_importing_the_package_does_not_import_torch():
    program = "import sys, posttrain.embedded as e; e.battery(); e.model_path(); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_an_unknown_split_and_too_many_questions_are_refused():
    with pytest.raises(DataError, match='Use "train" or "test"'):
        embedded.identity_prompts("validation")
    with pytest.raises(DataError, match="Ask for fewer"):
        embedded.arithmetic("test", 2000)
